/* libpagecheck.so.1: pagecheck.h, its functions exported. The declarations of libpagecheck.h are
 * seen here too, so that a signature that differs does not compile. */
#define PAGECHECK_API __attribute__((visibility("default")))
#include "pagecheck.h"

#pragma GCC visibility push(default)
#include "libpagecheck.h"
#pragma GCC visibility pop

size_t pagecheck_client_bytes(void)
{
    return sizeof(pagecheck_client);
}

size_t pagecheck_channel_bytes(void)
{
    return sizeof(pagecheck_channel);
}

uint32_t pagecheck_protocol(void)
{
    return PAGECHECK_PROTOCOL;
}

uint32_t pagecheck_layout(void)
{
    return PAGECHECK_LAYOUT_VERSION;
}

const char *pagecheck_client_error(const pagecheck_client *client)
{
    return client->error;
}

const char *pagecheck_channel_error(const pagecheck_channel *channel)
{
    return channel->error != NULL ? channel->error : "";
}

uint32_t pagecheck_channel_refusal(const pagecheck_channel *channel)
{
    return channel->refusal;
}

void pagecheck_channel_set_spin(pagecheck_channel *channel, int64_t spin_ns)
{
    channel->spin_ns = spin_ns;
}
