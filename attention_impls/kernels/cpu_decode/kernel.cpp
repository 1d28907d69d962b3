// Grouped-query attention on a CPU, for decoding: K and V are read in place, once for up to 64 rows of queries.
//
// A chunk is a range of keys of one key/value head of one sequence, with some query rows: the unit that threads
// take. Within it a block of keys stays in the first-level cache while all tiles of rows pass over it, then the
// same block of values. While keys are multiplied, the next block's values are fetched, and while values are
// summed, the keys of the block after the next: into the second-level cache, which can wait for many more lines
// at once than the first. Where tokens are not contiguous, the lines that are fetched are not those used next, which
// costs only time. A head that is split into several chunks leaves partial results, merged in order.
#include <omp.h>

#include "tile.h"

namespace {

constexpr int MAX_TILES = 64;  // no chunk has more rows
constexpr int QUADS = 2;

}  // namespace

extern "C" {

// Mirrored by `plan.py`. Everything is 64 bits wide.
struct Chunk {
    int64_t sequence, head, first_row, num_rows, first_key, end_key, slot;  // slot -1: the whole result
};

struct Merge {
    int64_t sequence, head, first_row, num_rows, first_slot, num_slots;
};

struct Arguments {
    const void *q, *k, *v;
    const float *k_scales, *v_scales;
    const Chunk* chunks;
    const Merge* merges;
    const int64_t* lengths;
    int64_t num_chunks, num_merges, num_threads;
    int64_t num_q_heads, num_kv_heads, group_size, q_len, kv_len, head_dim;
    int64_t k_sequence_stride, k_head_stride, k_token_stride;  // in elements
    int64_t v_sequence_stride, v_head_stride, v_token_stride;
    int64_t looks_back_only, window;  // window 0: none
    int64_t block_keys, max_rows;
    double softmax_scale, soft_cap;  // soft_cap 0: none
};

}  // extern "C"

namespace {

int padded(int64_t count, int multiple) { return static_cast<int>((count + multiple - 1) / multiple * multiple); }

// A thread's part of the workspace, in floats, then the slots of partial results.
struct Layout {
    int dim;
    int64_t queries, scores, scratch, slot;

    explicit Layout(const Arguments& a)
        : dim(padded(a.head_dim, STRIP)),
          queries(a.max_rows * dim),
          scores(a.max_rows * (a.block_keys + LANES)),
          scratch(2 * queries + scores),
          slot(a.max_rows * (dim + 2)) {}
};

// The keys that query `i` of a sequence of this length sees.
struct Range {
    int64_t first, end;
};

Range visible(const Arguments& a, int64_t length, int64_t i) {
    const int64_t position = length - a.q_len + i;
    const int64_t end = a.looks_back_only ? std::max<int64_t>(position + 1, 0) : length;
    return {a.window > 0 ? std::max<int64_t>(position - a.window + 1, 0) : 0, end};
}

template <class Io, class Cache>
class Worker {
  public:
    Worker(const Arguments& arguments, typename Io::Element* all_outputs, float* workspace, int thread)
        : a(arguments), layout(arguments), outputs(all_outputs), queries(workspace + thread * layout.scratch),
          sums(queries + layout.queries), scores(sums + layout.queries),
          slots(workspace + arguments.num_threads * layout.scratch) {
        constexpr double LOG2_E = 1.4426950408889634;
        cap_log2 = static_cast<float>(a.soft_cap * LOG2_E);
        query_scale = static_cast<float>(a.softmax_scale * (a.soft_cap > 0 ? 1 / a.soft_cap : LOG2_E));
    }

    void attend(const Chunk& chunk) {
        const int64_t head = chunk.sequence * a.num_kv_heads + chunk.head;
        keys = static_cast<const Element*>(a.k) + chunk.sequence * a.k_sequence_stride + chunk.head * a.k_head_stride;
        values = static_cast<const Element*>(a.v) + chunk.sequence * a.v_sequence_stride + chunk.head * a.v_head_stride;
        key_scales = a.k_scales == nullptr ? nullptr : a.k_scales + head * a.kv_len;
        value_scales = a.v_scales == nullptr ? nullptr : a.v_scales + head * a.kv_len;
        pack(chunk);
        for (int64_t first = chunk.first_key; first < chunk.end_key; first += a.block_keys)
            attend_block(chunk, first, std::min(first + a.block_keys, chunk.end_key));
        if (chunk.slot < 0)
            write_output(chunk);
        else
            write_partial(chunk);
    }

    void merge(const Merge& merge) {
        for (int64_t row = 0; row < merge.num_rows; ++row) {
            float maximum = -INFINITE, sum = 0;
            for (int64_t i = 0; i < merge.num_slots; ++i) maximum = std::max(maximum, slot_maxima(merge.first_slot + i)[row]);
            if (maximum == -INFINITE) maximum = 0;  // no key was seen, or none whose logit is a number
            std::fill_n(sums, layout.dim, 0.0f);
            for (int64_t i = 0; i < merge.num_slots; ++i) {
                const float* maxima = slot_maxima(merge.first_slot + i);
                const float factor = std::exp2(maxima[row] - maximum);
                const float* part = slots + (merge.first_slot + i) * layout.slot + row * layout.dim;
                for (int d = 0; d < layout.dim; ++d) sums[d] += factor * part[d];
                sum += factor * maxima[a.max_rows + row];
            }
            write_row(merge.sequence, merge.head, merge.first_row + row, sums, sum);
        }
    }

  private:
    using Element = typename Cache::Element;

    const Arguments& a;
    const Layout layout;
    typename Io::Element* outputs;
    float *queries, *sums, *scores, *slots;
    float query_scale, cap_log2;
    const Element *keys, *values;
    const float *key_scales, *value_scales;
    Tile tiles[MAX_TILES];
    int num_tiles;

    float* slot_maxima(int64_t slot) { return slots + slot * layout.slot + a.max_rows * layout.dim; }

    int64_t row_offset(int64_t sequence, int64_t head, int64_t row) const {
        const int64_t q_head = head * a.group_size + row % a.group_size;
        return ((sequence * a.num_q_heads + q_head) * a.q_len + row / a.group_size) * a.head_dim;
    }

    // Queries as float32, scaled, in the cache's order of elements, zeros behind them; tiles of 4, 2 and 1 rows.
    void pack(const Chunk& chunk) {
        num_tiles = 0;
        float* tile_scores = scores;
        for (int row = 0; row < chunk.num_rows;) {
            const int left = static_cast<int>(chunk.num_rows) - row;
            Tile& tile = tiles[num_tiles++];
            tile.row = row;
            tile.rows = left >= 3 ? 4 : left;
            tile.scores = tile_scores;
            std::fill_n(tile.maximum, LANES, -INFINITE);
            std::fill_n(tile.sum, LANES, 0.0f);
            tile_scores += tile.rows * (a.block_keys + LANES);
            row += tile.rows;
        }
        const int packed_rows = tiles[num_tiles - 1].row + tiles[num_tiles - 1].rows;
        std::fill_n(queries, packed_rows * layout.dim, 0.0f);
        std::fill_n(sums, packed_rows * layout.dim, 0.0f);
        for (int64_t row = 0; row < chunk.num_rows; ++row) {
            const auto* q = static_cast<const typename Io::Element*>(a.q) +
                            row_offset(chunk.sequence, chunk.head, chunk.first_row + row);
            for (int d = 0; d < a.head_dim; ++d)
                queries[row * layout.dim + d / STRIP * STRIP + Cache::place(d % STRIP)] =
                    query_scale * Io::widen(q[d]);
        }
    }

    // Of a key or a value; null past the end of the chunk, where there is nothing to fetch.
    const char* address(const Chunk& chunk, const Element* cache, int64_t stride, int64_t key) const {
        return key < chunk.end_key ? reinterpret_cast<const char*>(cache + key * stride) : nullptr;
    }

    void attend_block(const Chunk& chunk, int64_t first, int64_t end) {
        const char* ahead = address(chunk, values, a.v_token_stride, end);
        for (int i = 0; i < num_tiles; ++i) {
            const char* fetched = i == 0 ? ahead : nullptr;
            switch (tiles[i].rows) {
                case 1: score<1>(chunk, tiles[i], first, end, fetched); break;
                case 2: score<2>(chunk, tiles[i], first, end, fetched); break;
                default: score<4>(chunk, tiles[i], first, end, fetched);
            }
        }
        ahead = address(chunk, keys, a.k_token_stride, end + a.block_keys);
        for (int i = 0; i < num_tiles; ++i) {
            if (tiles[i].end <= tiles[i].first) continue;
            const char* fetched = i == 0 ? ahead : nullptr;
            switch (tiles[i].rows) {
                case 1: sum_values<1>(tiles[i], fetched); break;
                case 2: sum_values<2>(tiles[i], fetched); break;
                default: sum_values<4>(tiles[i], fetched);
            }
        }
    }

    template <int ROWS>
    void score(const Chunk& chunk, Tile& tile, int64_t first, int64_t end, const char* ahead) {
        constexpr int KEYS_OF_QUAD = 4 / ROWS;
        const int64_t length = a.lengths[chunk.sequence];
        Range seen[ROWS];
        tile.first = end, tile.end = first;
        bool all_see_all = true;
        for (int r = 0; r < ROWS; ++r) {  // a padding row sees what the last row sees
            const int64_t row = std::min(tile.row + r, static_cast<int>(chunk.num_rows) - 1);
            seen[r] = visible(a, length, (chunk.first_row + row) / a.group_size);
            if (std::min(seen[r].end, end) <= std::max(seen[r].first, first)) continue;
            tile.first = std::min(tile.first, std::max(seen[r].first, first));
            tile.end = std::max(tile.end, std::min(seen[r].end, end));
        }
        const int num_keys = static_cast<int>(tile.end - tile.first);
        if (num_keys <= 0) return;
        const float* q = queries + tile.row * layout.dim;
        const int head_dim = static_cast<int>(a.head_dim);
        const int64_t step_bytes = QUADS * KEYS_OF_QUAD * a.head_dim * sizeof(Element);
        int key = 0;
        for (; key + QUADS * KEYS_OF_QUAD <= num_keys; key += QUADS * KEYS_OF_QUAD) {
            if (ahead != nullptr) {
                for (int64_t line = 0; line < step_bytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
                ahead += step_bytes;
            }
            products<Cache, ROWS, QUADS>(q, keys + (tile.first + key) * a.k_token_stride, a.k_token_stride,
                                         num_keys - 1 - key, head_dim, layout.dim, tile.scores + key * ROWS);
        }
        for (; key < num_keys; key += KEYS_OF_QUAD)
            products<Cache, ROWS, 1>(q, keys + (tile.first + key) * a.k_token_stride, a.k_token_stride,
                                     num_keys - 1 - key, head_dim, layout.dim, tile.scores + key * ROWS);
        const int num_vectors = padded(num_keys * ROWS, LANES) / LANES;
        if (key_scales != nullptr)
            for (int i = 0; i < num_keys; ++i)
                for (int r = 0; r < ROWS; ++r) tile.scores[i * ROWS + r] *= key_scales[tile.first + i];
        if (cap_log2 > 0) cap_logits(tile.scores, num_vectors, cap_log2);
        for (int i = num_keys * ROWS; i < num_vectors * LANES; ++i) tile.scores[i] = -INFINITE;
        for (int r = 0; r < ROWS; ++r) all_see_all &= seen[r].first <= tile.first && tile.end <= seen[r].end;
        if (!all_see_all)
            for (int i = 0; i < num_keys; ++i)
                for (int r = 0; r < ROWS; ++r)
                    if (tile.first + i < seen[r].first || tile.first + i >= seen[r].end)
                        tile.scores[i * ROWS + r] = -INFINITE;
        advance_softmax<ROWS>(tile, num_vectors, sums + tile.row * layout.dim, layout.dim);
        if (value_scales != nullptr)
            for (int i = 0; i < num_keys; ++i)
                for (int r = 0; r < ROWS; ++r) tile.scores[i * ROWS + r] *= value_scales[tile.first + i];
    }

    template <int ROWS>
    void sum_values(const Tile& tile, const char* ahead) {
        constexpr int STRIPS = 4 / ROWS;
        const Element* first = values + tile.first * a.v_token_stride;
        float* output = sums + tile.row * layout.dim;
        const int whole = static_cast<int>(a.head_dim) / STRIP * STRIP;
        // A share of the lines to fetch goes before each pass over the values.
        const int64_t num_passes = std::max(whole / (STRIPS * STRIP), 1);
        const int64_t share = (tile.end - tile.first) * a.head_dim * sizeof(Element) / num_passes;
        const auto fetch = [&] {
            if (ahead == nullptr) return;
            for (int64_t line = 0; line < share; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
            ahead += share;
        };
        int d = 0;
        for (; d + STRIPS * STRIP <= whole; d += STRIPS * STRIP) {
            fetch();
            accumulate<Cache, ROWS, STRIPS>(tile, first, a.v_token_stride, layout.dim, d, output, Cache::load);
        }
        for (; d < whole; d += STRIP)
            accumulate<Cache, ROWS, 1>(tile, first, a.v_token_stride, layout.dim, d, output, Cache::load);
        const int rest = static_cast<int>(a.head_dim) - whole;
        if (rest > 0)
            accumulate<Cache, ROWS, 1>(tile, first, a.v_token_stride, layout.dim, d, output,
                                       [rest](const Element* x) { return load_part<Cache>(x, rest); });
    }

    static float row_sum(const Tile& tile, int r) {
        float sum = 0;
        for (int lane = r; lane < LANES; lane += tile.rows) sum += tile.sum[lane];
        return sum;
    }

    void write_row(int64_t sequence, int64_t head, int64_t row, const float* numerators, float sum) {
        auto* output = outputs + row_offset(sequence, head, row);
        const float factor = sum == 0 ? 0.0f : 1 / sum;  // a query that sees no key has output zero
        for (int d = 0; d < a.head_dim; ++d)
            output[d] = Io::narrow(numerators[d / STRIP * STRIP + Cache::place(d % STRIP)] * factor);
    }

    void write_output(const Chunk& chunk) {
        for (int i = 0; i < num_tiles; ++i)
            for (int r = 0; r < tiles[i].rows && tiles[i].row + r < chunk.num_rows; ++r)
                write_row(chunk.sequence, chunk.head, chunk.first_row + tiles[i].row + r,
                          sums + (tiles[i].row + r) * layout.dim, row_sum(tiles[i], r));
    }

    void write_partial(const Chunk& chunk) {
        std::copy_n(sums, chunk.num_rows * layout.dim, slots + chunk.slot * layout.slot);
        float* maxima = slot_maxima(chunk.slot);
        for (int i = 0; i < num_tiles; ++i)
            for (int r = 0; r < tiles[i].rows && tiles[i].row + r < chunk.num_rows; ++r) {
                maxima[tiles[i].row + r] = tiles[i].maximum[r];
                maxima[a.max_rows + tiles[i].row + r] = row_sum(tiles[i], r);
            }
    }
};

template <class Io, class Cache>
void run(const Arguments& a, typename Io::Element* output, float* workspace) {
#pragma omp parallel num_threads(a.num_threads)
    {
        Worker<Io, Cache> worker(a, output, workspace, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < a.num_chunks; ++i) worker.attend(a.chunks[i]);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < a.num_merges; ++i) worker.merge(a.merges[i]);
    }
}

}  // namespace

// Compiled once for each pair: IO is of queries and outputs, CACHE of keys and values.
extern "C" void attend(const Arguments* arguments, void* output, float* workspace) {
    run<IO, CACHE>(*arguments, static_cast<IO::Element*>(output), workspace);
}
