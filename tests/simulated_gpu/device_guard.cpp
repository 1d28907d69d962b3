// One CUDA device for a PyTorch without any: what its C++ half asks before it lets a tensor be on `cuda:0`.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::Stream;

struct OneDevice final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
    Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
    Device exchangeDevice(Device) const override { return getDevice(); }
    void setDevice(Device) const override {}
    void uncheckedSetDevice(Device) const noexcept override {}
    Stream getStream(Device device) const noexcept override { return Stream(Stream::DEFAULT, device); }
    Stream getNewStream(Device device, int) const override { return Stream(Stream::DEFAULT, device); }
    Stream exchangeStream(Stream stream) const noexcept override { return stream; }
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, OneDevice)
