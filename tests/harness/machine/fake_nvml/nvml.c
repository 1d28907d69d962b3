/* A libnvidia-ml.so.1 for tests: what the harness asks of NVML, answered from environment variables.
 *
 * Two GPUs in order of PCI bus: a small one, and a big one that CUDA would count first.
 *
 *   FAKE_NVML_INIT=9               nvmlInit fails with this nvmlReturn_t
 *   FAKE_NVML_MIG=2                the big GPU is in MIG mode, with so many slices; slot 0 is empty
 *   FAKE_NVML_ERRORS=name=4,...    functions that fail, and how; a field of field values is its number
 *   FAKE_NVML_LOST_AFTER=5         the GPUs are lost after so many questions about devices
 *   FAKE_NVML_REASONS=0x44         clock event reasons
 *   FAKE_NVML_COMPUTE=7:1024,8:na  processes and their bytes; FAKE_NVML_GRAPHICS likewise
 *   FAKE_NVML_STEP_MS=100          how often the energy counter steps
 *   FAKE_NVML_MANUAL_CLOCK=1       its time moves by fake_advance_s() only
 *
 * With -DOLD_DRIVER it lacks the functions that newer drivers brought.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
};

#define MAX_SLICES 2
#define MEMORY_V2 0x02000028u
#define TEMPERATURE_V1 0x0100000cu
#define POWER_INSTANT 186
#define UNSIGNED_INT 1
#define NOT_AVAILABLE 0xffffffffffffffffull
#define MIB (1ull << 20)

typedef struct device {
    const char *uuid, *name;
    struct device *board; /* of a MIG slice */
    unsigned long long total, reserved, used;
    unsigned max_clock[3]; /* graphics, SM, memory */
} *device_t;

static struct device small = {
    "GPU-11111111-aaaa-4000-8000-000000000001", "NVIDIA Small", NULL, 16384 * MIB, 256 * MIB, 300 * MIB, {1500, 1500, 5000},
};
static struct device big = {
    "GPU-22222222-bbbb-4000-8000-000000000002", "NVIDIA Big", NULL, 143360 * MIB, 512 * MIB, 1000 * MIB, {1980, 1980, 3201},
};
static struct device slices[MAX_SLICES] = {
    {"MIG-33333333-cccc-4000-8000-000000000003", "NVIDIA Big MIG 1g.18gb", &big, 16384 * MIB, 0, 40 * MIB, {0}},
    {"MIG-44444444-dddd-4000-8000-000000000004", "NVIDIA Big MIG 1g.18gb", &big, 16384 * MIB, 0, 50 * MIB, {0}},
};
static device_t gpus[] = {&small, &big};
#define NUM_GPUS 2

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 0) : otherwise;
}

static int num_slices(void) { return (int)setting("FAKE_NVML_MIG", 0); }

/* The error that a function is set to give. */
static int set_error(const char *function) {
    const char *at = getenv("FAKE_NVML_ERRORS");
    size_t length = strlen(function);
    while (at && *at) {
        if (strncmp(at, function, length) == 0 && at[length] == '=') return atoi(at + length + 1);
        at = strchr(at, ',');
        if (at) at++;
    }
    return SUCCESS;
}

static int refusal(const char *function) {
    static long num_questions = 0;
    if (++num_questions > setting("FAKE_NVML_LOST_AFTER", 1L << 40)) return GPU_IS_LOST;
    return set_error(function);
}

long fake_num_questions = 0; /* about devices, refused or not */

#define ANSWER_OR_REFUSE()                 \
    do {                                   \
        fake_num_questions++;              \
        int code = refusal(__func__);      \
        if (code != SUCCESS) return code;  \
    } while (0)
#define ONLY_FOR_BOARDS(device) \
    if ((device)->board) return NOT_SUPPORTED

/* Energy */

static double manual_s = 0, power_w = 100, energy_mj = 5e6, known_until_s = -1, visible_mj = 5e6;

static double now_s(void) {
    if (setting("FAKE_NVML_MANUAL_CLOCK", 0)) return manual_s;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + now.tv_nsec * 1e-9;
}

static void bring_up_to_date(void) {
    double now = now_s(), step_s = setting("FAKE_NVML_STEP_MS", 100) / 1e3;
    if (known_until_s < 0) known_until_s = now;
    double last_step_s = floor(now / step_s + 1e-9) * step_s;
    if (last_step_s > known_until_s) visible_mj = energy_mj + power_w * 1e3 * (last_step_s - known_until_s);
    energy_mj += power_w * 1e3 * (now - known_until_s);
    known_until_s = now;
}

/* What tests call. */
void fake_set_power_w(double watts) {
    bring_up_to_date();
    power_w = watts;
}

void fake_advance_s(double seconds) {
    bring_up_to_date();
    manual_s += seconds;
}

double fake_now_s(void) { return now_s(); }

/* Library */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    bring_up_to_date();
    return (int)setting("FAKE_NVML_INIT", SUCCESS);
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

static int copy(const char *from, char *to, unsigned size) {
    if (strlen(from) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) { return copy("580.65.06", version, size); }

#ifdef OLD_DRIVER
int nvmlSystemGetCudaDriverVersion(int *version) {
#else
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
#endif
    *version = 13020;
    return SUCCESS;
}

/* Devices */

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = NUM_GPUS;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    ANSWER_OR_REFUSE();
    if (index >= NUM_GPUS) return INVALID_ARGUMENT;
    *device = gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
    ANSWER_OR_REFUSE();
    for (int i = 0; i < NUM_GPUS; i++)
        if (strcmp(uuid, gpus[i]->uuid) == 0) return *device = gpus[i], SUCCESS;
    for (int i = 0; i < num_slices(); i++)
        if (strcmp(uuid, slices[i].uuid) == 0) return *device = &slices[i], SUCCESS;
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t slice, device_t *device) {
    ANSWER_OR_REFUSE();
    if (!slice->board) return INVALID_ARGUMENT;
    *device = slice->board;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending) {
    ANSWER_OR_REFUSE();
    if (device != &big) return NOT_SUPPORTED;
    *current = *pending = num_slices() > 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned *count) {
    ANSWER_OR_REFUSE();
    *count = device == &big ? MAX_SLICES + 1 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t device, unsigned index, device_t *slice) {
    ANSWER_OR_REFUSE();
    if (device != &big || index == 0 || (int)index > num_slices()) return NOT_FOUND;
    *slice = &slices[index - 1];
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned size) {
    ANSWER_OR_REFUSE();
    return copy(device->uuid, uuid, size);
}

int nvmlDeviceGetName(device_t device, char *name, unsigned size) {
    ANSWER_OR_REFUSE();
    return copy(device->name, name, size);
}

int nvmlDeviceGetVbiosVersion(device_t device, char *version, unsigned size) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    return copy("96.00.99.00.01", version, size);
}

/* Memory and processes */

struct memory_v1 {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

int nvmlDeviceGetMemoryInfo(device_t device, struct memory_v1 *memory) {
    ANSWER_OR_REFUSE();
    memory->total = device->total;
    memory->used = device->used + device->reserved; /* as version 1 has it */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

static int list_processes(const char *variable, unsigned *count, struct process *processes) {
    unsigned found = 0;
    for (const char *at = getenv(variable); at && *at; found++) {
        char *end;
        unsigned pid = (unsigned)strtoul(at, &end, 10);
        unsigned long long used = end[1] == 'n' ? NOT_AVAILABLE : strtoull(end + 1, NULL, 10);
        if (processes && found < *count) processes[found] = (struct process){pid, used, found, 0};
        at = strchr(at, ',');
        if (at) at++;
    }
    int fits = found <= *count;
    *count = found;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

#ifdef OLD_DRIVER
#define COMPUTE nvmlDeviceGetComputeRunningProcesses_v2
#define GRAPHICS nvmlDeviceGetGraphicsRunningProcesses_v2
#define CLOCK_REASONS nvmlDeviceGetCurrentClocksThrottleReasons
#else
#define COMPUTE nvmlDeviceGetComputeRunningProcesses_v3
#define GRAPHICS nvmlDeviceGetGraphicsRunningProcesses_v3
#define CLOCK_REASONS nvmlDeviceGetCurrentClocksEventReasons

int nvmlDeviceGetMemoryInfo_v2(device_t device, struct memory_v2 *memory) {
    ANSWER_OR_REFUSE();
    if (memory->version != MEMORY_V2) return VERSION_MISMATCH;
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = device->total - device->used - device->reserved;
    return SUCCESS;
}

struct temperature {
    unsigned version, sensor;
    int celsius;
};

int nvmlDeviceGetTemperatureV(device_t device, struct temperature *temperature) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    if (temperature->version != TEMPERATURE_V1) return VERSION_MISMATCH;
    temperature->celsius = 55;
    return SUCCESS;
}

struct field {
    unsigned id, scope;
    long long timestamp, latency_us;
    int type, code;
    union {
        double as_double;
        unsigned as_unsigned;
        unsigned long long as_long_long;
    } value;
};

int nvmlDeviceGetFieldValues(device_t device, int count, struct field *fields) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", fields[i].id);
        fields[i].code = fields[i].id == POWER_INSTANT ? set_error(name) : NOT_SUPPORTED;
        fields[i].type = UNSIGNED_INT;
        fields[i].value.as_unsigned = (unsigned)(power_w * 1e3);
    }
    return SUCCESS;
}
#endif

int COMPUTE(device_t device, unsigned *count, struct process *processes) {
    ANSWER_OR_REFUSE();
    (void)device;
    return list_processes("FAKE_NVML_COMPUTE", count, processes);
}

int GRAPHICS(device_t device, unsigned *count, struct process *processes) {
    ANSWER_OR_REFUSE();
    (void)device;
    return list_processes("FAKE_NVML_GRAPHICS", count, processes);
}

/* The board */

int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    bring_up_to_date();
    *millijoules = (unsigned long long)visible_mj;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(device_t device, unsigned type, unsigned *mhz) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    *mhz = device->max_clock[type] - 15;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(device_t device, unsigned type, unsigned *mhz) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    *mhz = device->max_clock[type];
    return SUCCESS;
}

int CLOCK_REASONS(device_t device, unsigned long long *reasons) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    *reasons = (unsigned long long)setting("FAKE_NVML_REASONS", 0);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *celsius) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    *celsius = sensor == 0 ? 54 : 0;
    return SUCCESS;
}

struct utilisation {
    unsigned gpu, memory;
};

int nvmlDeviceGetUtilizationRates(device_t device, struct utilisation *percent) {
    ANSWER_OR_REFUSE();
    ONLY_FOR_BOARDS(device);
    *percent = (struct utilisation){75, 20};
    return SUCCESS;
}

int nvmlDeviceGetEccMode(device_t device, int *current, int *pending) {
    ANSWER_OR_REFUSE();
    if (device != &big) return NOT_SUPPORTED;
    *current = 1;
    *pending = 0;
    return SUCCESS;
}

#define NUMBER_OF_BOARD(function, type, number)   \
    int function(device_t device, type *answer) { \
        ANSWER_OR_REFUSE();                       \
        ONLY_FOR_BOARDS(device);                  \
        *answer = number;                         \
        return SUCCESS;                           \
    }

NUMBER_OF_BOARD(nvmlDeviceGetEnforcedPowerLimit, unsigned, 500000)
NUMBER_OF_BOARD(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, 700000)
NUMBER_OF_BOARD(nvmlDeviceGetPowerUsage, unsigned, 99000)
NUMBER_OF_BOARD(nvmlDeviceGetPersistenceMode, int, 0)
NUMBER_OF_BOARD(nvmlDeviceGetComputeMode, int, 3)
NUMBER_OF_BOARD(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, 1)
NUMBER_OF_BOARD(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 5)
NUMBER_OF_BOARD(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 8)
NUMBER_OF_BOARD(nvmlDeviceGetMaxPcieLinkWidth, unsigned, 16)
