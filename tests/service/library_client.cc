// A VMM in C++ that links libpagecheck: library_client SOCKET; prints which of 64 pages are zero.
#include <libpagecheck.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <vector>

template <typename T> struct Opaque {
    explicit Opaque(std::size_t bytes) : words((bytes + 7) / 8) {}
    T *get() { return reinterpret_cast<T *>(words.data()); }
    std::vector<std::uint64_t> words;
};

int main(int argc, char **argv)
{
    int ram = memfd_create("ram", MFD_CLOEXEC);
    if (argc != 2 || ftruncate(ram, 64 * 4096) != 0 || pwrite(ram, "x", 1, 5 * 4096) != 1)
        return 2;
    Opaque<pagecheck_client> client(pagecheck_client_bytes());
    Opaque<pagecheck_channel> channel(pagecheck_channel_bytes());
    const pagecheck_channel_options options = {4, 128, 0};
    const std::int64_t soon = pagecheck_now_ns() + 10000000000;
    std::uint32_t block;
    std::uint64_t ticket, zero, decided;
    if (pagecheck_connect(argv[1], soon, client.get()) != 0 ||
        pagecheck_attach(client.get(), "ram", ram, 4096, nullptr, 0, soon, &block) != 0 ||
        pagecheck_open_channel(client.get(), &options, soon, channel.get()) != 0)
        return std::puts(pagecheck_client_error(client.get())), 1;
    if (pagecheck_submit_range(channel.get(), block, 0, 64, &ticket) != 0 ||
        pagecheck_wait(channel.get(), ticket, soon, &zero, &decided) != 0)
        return std::puts(pagecheck_channel_error(channel.get())), 1;
    std::printf("%llx %llx\n", static_cast<unsigned long long>(zero),
                static_cast<unsigned long long>(decided));
    pagecheck_close_channel(client.get(), channel.get(), soon);
    pagecheck_disconnect(client.get());
    return 0;
}
