/* Descriptors and completion records as the specification (341204-006US) lays them out.
 *
 * The numbers are written down here from the specification, not taken from the kernel's header nor
 * from the driver under test: two independent readings must agree.
 */
#ifndef DSA_MODEL_SPEC_H
#define DSA_MODEL_SPEC_H

#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "descriptors and records are little endian, and the model copies them as they are"
#endif

enum {
    DSA_DESCRIPTOR_BYTES = 64,
    DSA_RECORD_BYTES = 32,
    DSA_MAX_BATCH = 1024,
};

/* 8.1 Descriptor */
typedef struct dsa_descriptor {
    uint32_t pasid; /* bits 19:0 PASID, 30:20 reserved, 31 priv */
    uint32_t flags; /* bits 23:0 flags, 31:24 opcode */
    uint64_t record;
    uint64_t source; /* or the address of the descriptor list */
    uint64_t second; /* second source, or the pattern */
    uint32_t size;   /* bytes, or descriptors of a batch */
    uint16_t interrupt;
    uint16_t reserved;
    uint8_t expected;
    uint8_t rest[23];
} dsa_descriptor;
_Static_assert(sizeof(dsa_descriptor) == DSA_DESCRIPTOR_BYTES, "8.1");

#define DSA_PASID_RESERVED 0x7ff00000u
#define DSA_PASID_PRIV 0x80000000u

enum dsa_opcode { /* Table 5-1 */
                  DSA_NOOP = 0x00,
                  DSA_BATCH = 0x01,
                  DSA_DRAIN = 0x02,
                  DSA_COMPARE = 0x05,
                  DSA_COMPVAL = 0x06,
};

enum dsa_flag { /* 8.1.3 */
                DSA_FENCE = 0x000001,
                DSA_BLOCK_ON_FAULT = 0x000002,
                DSA_RECORD_VALID = 0x000004,     /* CRAV */
                DSA_REQUEST_RECORD = 0x000008,   /* RCR */
                DSA_REQUEST_INTERRUPT = 0x00010, /* RCI */
                DSA_CHECK_RESULT = 0x000080,     /* CR */
                DSA_ADDRESS_1_TC = 0x000200,
                DSA_ADDRESS_2_TC = 0x000400,
                DSA_RECORD_TC = 0x001000, /* CR_TCS */
};

enum dsa_status { /* Table 5-6 */
                  DSA_SUCCESS = 0x01,
                  DSA_FALSE_PREDICATE = 0x02,
                  DSA_PAGE_FAULT = 0x03,
                  DSA_PAGE_REFUSED = 0x04,
                  DSA_BATCH_FAIL = 0x05,
                  DSA_LIST_FAULT = 0x06,
                  DSA_BAD_OPCODE = 0x10,
                  DSA_BAD_FLAGS = 0x11,
                  DSA_BAD_RESERVED = 0x12,
                  DSA_BAD_SIZE = 0x13,
                  DSA_BAD_COUNT = 0x14,
                  DSA_BAD_VALUE = 0x15,
                  DSA_OVERLAP = 0x16,
                  DSA_DUALCAST = 0x17,
                  DSA_BAD_LIST = 0x18,
                  DSA_BAD_INTERRUPT = 0x19,
                  DSA_BAD_ADDRESS = 0x1c,
                  DSA_BAD_TRAFFIC_CLASS = 0x1e,
                  DSA_READBACK = 0x1f,
                  DSA_HARDWARE = 0x20,
                  DSA_HARDWARE_WRITE = 0x21,
                  DSA_TRANSLATION = 0x22,
};

/* Operand ids of the fault-info byte (8.2, GENCAP bit 12: version 2). */
enum dsa_operand { DSA_OPERAND_SOURCE = 1, DSA_OPERAND_SECOND = 2 };

static inline uint8_t dsa_opcode_of(const dsa_descriptor *descriptor)
{
    return (uint8_t)(descriptor->flags >> 24);
}

#endif
