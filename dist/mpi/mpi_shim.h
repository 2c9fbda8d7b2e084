// SPDX-License-Identifier: Apache-2.0
// The functions of libpinion_mpi.so, the one file that is compiled against an MPI. A table in plain
// C, so that the library and Pinion need not share a compiler, and no program links MPI. All calls
// come from one thread. Functions return 0, or fill `error` (kPinionMpiError bytes).
#pragma once

#include <stdint.h>

enum { kPinionMpiVersion = 1, kPinionMpiError = 512 };

// Of PinionMpi::start. Bytes are what is only moved.
enum PinionMpiKind {
  kPinionMpiBarrier,
  kPinionMpiBroadcast,
  kPinionMpiAllReduce,
  kPinionMpiReduceScatter,
  kPinionMpiAllGather,
  kPinionMpiAllToAll,
  kPinionMpiSend,
  kPinionMpiReceive
};
enum PinionMpiType { kPinionMpiF32, kPinionMpiF64, kPinionMpiI64, kPinionMpiI32, kPinionMpiU8 };
enum PinionMpiReduce { kPinionMpiSum, kPinionMpiMin, kPinionMpiMax };

struct PinionMpiCall {
  int32_t kind, type, reduce;
  int32_t peer;    // the root or partner
  int32_t tag;     // of send and receive
  const void* in;  // for all_reduce that of `out`: in place
  void* out;
  int64_t count;  // elements that one rank gives to one rank; at most 2^31-1
};

struct PinionMpi {
  int32_t version;
  int (*init)(int* rank, int* size, char* error);
  int (*start)(const struct PinionMpiCall* call, void** request, char* error);
  // *done: whether it is complete; then the request is gone.
  int (*test)(void** request, int* done, char* error);
  // *size: bytes of a message of this tag that waits to be received, from *peer; 0: none.
  int (*probe)(int tag, int* peer, int64_t* size, char* error);
  int (*finalize)(char* error);
};

#ifdef __cplusplus
extern "C"
#endif
    const struct PinionMpi*
    pinion_mpi(void);
