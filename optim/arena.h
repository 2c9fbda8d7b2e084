// SPDX-License-Identifier: Apache-2.0
// Arena: the parameters of one group, dtype and device in one flat block, their gradients in a
// second block of the same layout, optimizer state in more. A whole model is then a few pointer
// ranges: one kernel call steps it, one pass takes its norm, and a bucket of a reducer is a range.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pinion/nn/module.h"

namespace pinion::optim {

// What one process holds of a named tensor: `values` [length], a view, are its elements from
// `offset` on in row-major order. All of them, unless the optimizer is sharded.
struct StateSlice {
  std::string name;
  Shape shape;  // of the whole tensor
  int64_t offset;
  Tensor values;
};

class Arena {
 public:
  struct Item {
    std::string name;
    Tensor param;    // lives in params()
    Tensor grad;     // its slot in grads()
    int64_t offset;  // in elements
    int64_t numel;
    const void* home;      // where the parameter must be
    int64_t steps = 0;     // updates of this parameter so far
    bool reached = false;  // of a sharded arena: some rank has a gradient
  };
  // A stretch of the layout whose elements are updated here: all of it, or a rank's shares of it.
  struct Part {
    int64_t begin, end;    // in elements of the layout
    Tensor params, grads;  // [end - begin]
    int64_t state = 0;     // where its elements begin in the blocks of state
  };
  // Neighbouring items that all have a gradient, were updated equally often, and so are one call.
  struct Range {
    size_t part;
    size_t first_item, end_item;
    int64_t begin, end;  // elements, padding included
    int64_t steps;
  };
  static constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector

  // Moves the parameters, all of one dtype and on one device, into a new block. Gradients that are
  // there already move too.
  explicit Arena(std::vector<nn::NamedTensor> params);

  DType dtype() const { return parts_[0].params.dtype(); }
  Device device() const { return parts_[0].params.device(); }
  int64_t size() const { return size_; }  // elements of the layout, padding included
  std::span<const Item> items() const { return items_; }
  std::span<Part> parts() { return parts_; }
  // The whole blocks, which a sharded arena does not have.
  Tensor& params() { return params_; }  // [size]
  Tensor& grads() { return grads_; }    // [size]; padding is zero
  // From now on gradients live in `block` [size], such as memory that other ranks can reach. Those
  // that are there move; everything else of the block must be zero.
  void move_gradients(Tensor block);

  // Gives up the blocks: from now on item i begins at offsets[i] of a layout of `size` elements and
  // only `parts` of it, whose memory somebody else looks after, are updated here. The blocks of
  // state shrink to them. Whether there is a gradient is then what set_reached() says. Parts start
  // and end at multiples of kAlignment and are in order; the parameters have moved already.
  void shard(std::span<const int64_t> offsets, int64_t size, std::vector<Part> parts);
  bool is_sharded() const { return sharded_; }
  void set_reached(size_t item, bool reached) { items_[item].reached = reached; }

  // Adds a block of state, zeros, under a name such as "exp_avg"; returns its number.
  size_t add_state(std::string name);
  Tensor& state_block(size_t i) { return states_[i].block; }  // [elements of all parts]
  size_t state_count() const { return states_.size(); }
  const std::string& state_name(size_t i) const { return states_[i].name; }
  // The elements of an item that a part has: [begin, begin + count) of the item. An item lies in at
  // most one part; count is 0 where it lies in none.
  struct Share {
    size_t part = 0;
    int64_t begin = 0, count = 0, in_part = 0;  // in_part: where they begin in the part
  };
  Share share_of(size_t item) const;
  // Everything a checkpoint needs, as views of the live blocks: "exp_avg.<parameter>", and
  // "step.<parameter>" (i64, no dimensions), a copy.
  void list_state(std::vector<StateSlice>& out);
  void set_steps(size_t item, int64_t steps) { items_[item].steps = steps; }

  // The ranges that have a gradient now. The list is the arena's own and valid until the next call.
  // Throws Error when a parameter has left the arena, for a second optimizer or another device.
  std::span<const Range> ranges();
  void count_step();  // of every parameter that has a gradient
  void zero_grad();   // afterwards no parameter has a gradient

 private:
  struct State {
    std::string name;
    Tensor block;
  };
  Tensor piece(const Tensor& block, const Item& item) const;
  void give_slots();
  bool has_gradient(const Item& item) const;
  int64_t end_of(size_t item) const;  // where the next one begins
  size_t item_at(int64_t element) const;

  std::vector<Item> items_;
  int64_t size_ = 0;
  Tensor params_, grads_;
  std::vector<Part> parts_;
  bool sharded_ = false;
  std::vector<State> states_;
  std::vector<Range> ranges_;
};

}  // namespace pinion::optim
