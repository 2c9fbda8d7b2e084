// SPDX-License-Identifier: Apache-2.0
// The parts of Zero that its files share: segments, what happens to their gradients between
// backward() and the step, and what happens to the parameters of units.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pinion/dist/zero/layout.h"
#include "pinion/dist/zero/zero.h"

namespace pinion::dist {

class Zero::Impl final : public optim::Sharding, public std::enable_shared_from_this<Impl> {
 public:
  Impl(optim::Optimizer& optimizer, ProcessGroup& group, ZeroOptions options)
      : optimizer_(optimizer), group_(group), options_(std::move(options)) {}

  // zero.cpp
  void take_over(nn::Module& model);
  int stage() const { return options_.stage; }

  // gradients.cpp
  void set_sync(bool on) { sync_ = on; }
  bool sync() const { return sync_; }
  void synchronize();
  void keep_sums();
  void finish_gradients() override;
  optim::GradStats measure() override;
  void zero_grad() override;

  // step.cpp
  void before_step() override;
  void update_range(optim::Arena& arena, const optim::Arena::Range& range,
                    const Update& update) override;
  void after_step() override;

  // units.cpp
  Tensor run(nn::Module& unit, const std::function<Tensor()>& f);
  void begin_whole();
  void end_whole();

  // state.cpp
  std::vector<optim::StateSlice> parameter_slices();
  void load_parameter_slices(const optim::ReadSlice& read);
  std::vector<nn::NamedTensor> state();

 private:
  struct Item {
    Tensor param;
    optim::Arena* arena;
    size_t index;  // in the arena
    size_t segment;
    int64_t offset;        // in the segment
    bool arrived = false;  // since the last reduction
    bool hooked = false;   // tells when its gradient arrives: it was not frozen at the start
  };
  // Where its gradients are: gathering in `grads`, being reduced (`launched`), or summed in the
  // rank's piece. Stage 1 keeps `grads`, of which the piece is a part.
  struct Segment {
    optim::Arena* arena;
    size_t part;        // of the arena: this rank's piece
    size_t first, end;  // in items_
    int unit;           // whose parameters are gathered for use; -1: they are always whole
    int64_t size;       // elements, a multiple of the number of ranks
    size_t expected = 0, ready = 0;  // items that ask for a gradient, that have one
    bool launched = false, summed = false;
    Tensor params;  // [size], undefined where the unit is not gathered
    Tensor grads;   // [size], undefined where there are none
    Tensor addend;  // [piece], what is added to the piece after the reduction
    Work reduction, gathering;
    std::vector<std::byte*> all_params, all_grads;  // everyone's, where `reaches_`
    bool in_place = true;                           // the parameters point into `params`
  };
  struct Unit {
    nn::Module* module;
    std::vector<size_t> segments;  // none: it is whole
    int next = -1, previous = -1;  // by the last forward pass
    int64_t began = -1;            // when the call began whose backward pass it was gathered for
    int pending = 0;               // recorded calls that backward() has not passed
  };

  // zero.cpp
  void check() const;
  void broadcast(nn::Module& model);
  std::vector<int> units_of(nn::Module& model);
  void move(optim::Arena& arena, std::span<const int> units);
  void move_items(Segment& s, const ZeroLayout& layout, const ZeroLayout::Segment& plan);
  void order_launches(nn::Module& model);
  void hook();
  void reach_others();

  optim::Arena::Part& piece_of(Segment& s) { return s.arena->parts()[s.part]; }
  // Whether the group goes on while ranks compute. Memory that waits for it is lent for nothing.
  bool works_by_itself() const {
    return group_.backend() != std::string_view("shm") &&
           group_.backend() != std::string_view("local");
  }
  Tensor mine(const Segment& s, const Tensor& block) const;  // this rank's piece of [size]
  Tensor place(const Item& item, const Tensor& block) const;

  // gradients.cpp
  [[noreturn]] void give_up(const std::string& text) const;
  void arrive(size_t item);
  void open_block(Segment& s);
  void collect(Item& item, Segment& s);
  void advance(bool all);
  void launch(Segment& s);
  void reduce(Segment& s);
  void settle(Segment& s);
  void check_reached() const;
  void reduce_all();
  void close_gradients();
  void share_reached();

  // step.cpp
  void update_chunk(Segment& s, const optim::Arena::Range& chunk, const Update& update);

  // units.cpp
  void start_gather(Unit& unit);
  void gather(int unit);
  void prefetch(int unit);
  void release(int unit);
  void release_all();
  void expect_gradients(int unit);
  void end_backward(Unit& unit);
  void before_backward(int unit, int64_t began, int64_t ended);

  optim::Optimizer& optimizer_;
  ProcessGroup& group_;
  ZeroOptions options_;
  std::vector<Item> items_;        // of all arenas
  std::vector<Segment> segments_;  // of all arenas
  std::vector<Unit> units_;
  std::vector<size_t> order_;  // of reductions, the same on all ranks
  size_t next_ = 0;            // in order_
  Segment* in_flight_ = nullptr;
  bool sync_ = true;
  bool reaches_ = false;  // stage 1 on memory that every rank reaches: the step can reduce
  bool fused_ = false;    // this step does
  // What the pieces hold of the gradients of this step: perhaps not all, all, or what the step has
  // used. It follows from calls that all ranks make alike, not from what this rank's graph has met:
  // ranks that reduced for their own reasons would wait for others in vain.
  enum class Sums : uint8_t { open, complete, spent } sums_ = Sums::open;
  int64_t clock_ = 0;   // counts the beginnings and ends of calls of run()
  int last_unit_ = -1;  // of this forward pass
  bool whole_ = false;
};

}  // namespace pinion::dist
