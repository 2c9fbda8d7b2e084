// SPDX-License-Identifier: Apache-2.0
// pinion_all_reduce's measurement of MPI_Allreduce, for bench/peers/all_reduce.py.
//   mpirun -np 2 pinion_all_reduce_mpi [milliseconds=300]
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  MPI_Init(&argc, &argv);
  const double milliseconds = argc > 1 ? std::atof(argv[1]) : 300;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (const int bytes : {4 << 10, 256 << 10, 4 << 20, 25 << 20}) {
    std::vector<float> x(static_cast<size_t>(bytes) / 4);
    const auto once = [&] {
      const auto begin = Clock::now();
      MPI_Allreduce(MPI_IN_PLACE, x.data(), bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
    };
    double each = 0;
    for (int i = 0; i < 8; ++i) each = std::max(i < 3 ? 0.0 : each, once());
    double calls = std::clamp(milliseconds * 1000 / each, 5.0, 20'000.0);
    MPI_Bcast(&calls, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    std::vector<double> times;
    for (int i = static_cast<int>(calls); i > 0; --i) times.push_back(once());
    std::sort(times.begin(), times.end());
    if (rank == 0) std::printf("mpi %d %.3f %.3f\n", bytes, times[times.size() / 2], times[0]);
  }
  MPI_Finalize();
  return 0;
}
