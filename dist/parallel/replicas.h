// SPDX-License-Identifier: Apache-2.0
// Copies of a module on several devices, and what DataParallel does with them that does not depend
// on the module's type.
#pragma once

#include <memory>

#include "pinion/dist/parallel/device_threads.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::dist {

struct DataParallelOptions {
  std::vector<Device> devices;  // the first is where the module is; a CPU may be there many times
  int cpu_threads_each = 1;
};

class Replicas {
 public:
  // Cuts x for one replica and brings the part to its device.
  class Part {
   public:
    Tensor operator()(const Tensor& x) const { return x.rows(begin, end).to(device); }
    int64_t begin, end;
    Device device;
  };
  using Run = std::function<Tensor(int replica, Part part)>;

  Replicas(nn::Module& module, optim::Optimizer& optimizer, const DataParallelOptions& options);
  ~Replicas();
  int count() const { return threads_.count(); }
  // The next replica, a copy of the module that still shares its tensors: gives it its own.
  void adopt(nn::Module& copy);

  // See DataParallel.
  Tensor forward(int64_t batch, const Run& run);
  Tensor step(int64_t batch, const Run& run);

 private:
  struct Replica;
  struct Item {  // a parameter in an arena of the optimizer
    size_t arena, index, param;
  };
  // A range of gradients on device 0, and the replicas whose gradients are added to it.
  struct Piece;

  std::vector<Part> parts_of(int64_t batch) const;  // fewer than replicas for a small batch
  void prepare();
  void replicate(Replica& replica) const;
  Piece piece_of(const Item& item, const Tensor& into, bool written, size_t parts) const;
  void reduce(const std::vector<Piece>& items);
  void add_up(const Piece& piece, int thread, int threads);
  Tensors backward_of(const std::vector<Tensor>& results, const std::vector<Part>& parts,
                      const Tensor& dy);

  std::unique_ptr<Replica> main_;  // the module itself
  std::vector<Replica> replicas_;
  std::vector<Device> devices_;
  std::vector<optim::Arena*> arenas_;  // of the optimizer
  std::vector<Item> items_;            // by arena, in the order of memory
  std::vector<size_t> loose_;          // parameters in no arena, frozen ones
  DeviceThreads threads_;              // last: they use what stands above
};

}  // namespace pinion::dist
