// SPDX-License-Identifier: Apache-2.0
// libpinion_mpi.so: Pinion's table of MPI's functions. Nothing of Pinion's library is in here.
#include "pinion/dist/mpi/mpi_shim.h"

#include <mpi.h>

#include <cstdio>

namespace {

MPI_Comm comm = MPI_COMM_NULL;

int check(int code, char* error) {
  if (code == MPI_SUCCESS) return 0;
  char text[MPI_MAX_ERROR_STRING] = "";
  int size = 0;
  MPI_Error_string(code, text, &size);
  std::snprintf(error, kPinionMpiError, "%s", text);
  return 1;
}

MPI_Datatype type_of(int type) {
  switch (type) {
    case kPinionMpiF32: return MPI_FLOAT;
    case kPinionMpiF64: return MPI_DOUBLE;
    case kPinionMpiI64: return MPI_INT64_T;
    case kPinionMpiI32: return MPI_INT32_T;
    default: return MPI_UINT8_T;
  }
}

MPI_Op operation_of(int reduce) {
  return reduce == kPinionMpiSum ? MPI_SUM : reduce == kPinionMpiMin ? MPI_MIN : MPI_MAX;
}

int init(int* rank, int* size, char* error) {
  int had = 0, got = 0;
  MPI_Initialized(&had);
  if (!had && check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &got), error))
    return 1;
  if (check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), error)) return 1;
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm, rank);
  return check(MPI_Comm_size(comm, size), error);
}

int start(const PinionMpiCall* call, void** request, char* error) {
  const PinionMpiCall& c = *call;
  const int count = static_cast<int>(c.count);
  MPI_Datatype type = type_of(c.type);
  MPI_Op reduce = operation_of(c.reduce);
  auto* r = new MPI_Request(MPI_REQUEST_NULL);
  int code = MPI_ERR_OTHER;
  switch (c.kind) {
    case kPinionMpiBarrier: code = MPI_Ibarrier(comm, r); break;
    case kPinionMpiBroadcast: code = MPI_Ibcast(c.out, count, type, c.peer, comm, r); break;
    case kPinionMpiAllReduce:
      code =
          MPI_Iallreduce(c.in == c.out ? MPI_IN_PLACE : c.in, c.out, count, type, reduce, comm, r);
      break;
    case kPinionMpiReduceScatter:
      code = MPI_Ireduce_scatter_block(c.in, c.out, count, type, reduce, comm, r);
      break;
    case kPinionMpiAllGather:
      code = MPI_Iallgather(c.in, count, type, c.out, count, type, comm, r);
      break;
    case kPinionMpiAllToAll:
      code = MPI_Ialltoall(c.in, count, type, c.out, count, type, comm, r);
      break;
    case kPinionMpiSend: code = MPI_Isend(c.in, count, type, c.peer, c.tag, comm, r); break;
    case kPinionMpiReceive: code = MPI_Irecv(c.out, count, type, c.peer, c.tag, comm, r); break;
    default: break;
  }
  if (code == MPI_SUCCESS)
    *request = r;
  else
    delete r;
  return check(code, error);
}

int test(void** request, int* done, char* error) {
  auto* r = static_cast<MPI_Request*>(*request);
  if (check(MPI_Test(r, done, MPI_STATUS_IGNORE), error)) return 1;
  if (*done) {
    delete r;
    *request = nullptr;
  }
  return 0;
}

int probe(int tag, int* peer, int64_t* size, char* error) {
  int found = 0, bytes = 0;
  MPI_Status status;
  *size = 0;
  if (check(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &found, &status), error)) return 1;
  if (!found) return 0;
  MPI_Get_count(&status, MPI_UINT8_T, &bytes);
  *size = bytes;
  *peer = status.MPI_SOURCE;
  return 0;
}

int finalize(char* error) {
  MPI_Comm_free(&comm);
  return check(MPI_Finalize(), error);
}

constexpr PinionMpi kTable = {kPinionMpiVersion, init, start, test, probe, finalize};

}  // namespace

extern "C" __attribute__((visibility("default"))) const PinionMpi* pinion_mpi(void) {
  return &kTable;
}
