// SPDX-License-Identifier: Apache-2.0
// A file system in memory that can lose power: it knows what has been made durable, and what may be
// there or not after a crash. The model is POSIX at its weakest but for one thing that Linux adds:
// fsync of a new file makes its own name durable too.
#pragma once

#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pinion/runtime/fs.h"

namespace pinion {

class MemoryFs final : public Fs {
 public:
  MemoryFs() { root_ = std::make_shared<Node>(Node{FileKind::directory}); }

  // Call `k` (from 1) that changes something, and all calls after it, fail as if the process were
  // dead; a write that is call k writes half.
  void die_at(int64_t k) { die_at_ = k, changes_ = 0, dead_ = false; }
  // Call k of any kind fails once with `error`.
  void fail_at(int64_t k, int error) { fail_at_ = k, error_ = error, calls_ = 0; }
  bool dead() const { return dead_; }
  bool failed() const { return fail_at_ > 0 && calls_ >= fail_at_; }
  int64_t changes() const { return changes_; }
  size_t open_files() const { return open_.size(); }

  enum class Unsynced { all, none, random };
  // What a new process finds: after a kill everything that was done; after a loss of power, of what
  // was not made durable, all, nothing, or anything in between by `random`.
  std::unique_ptr<MemoryFs> after_kill() const {
    return after([](auto&) { return Fate::kept; });
  }
  std::unique_ptr<MemoryFs> after_power_loss(Unsynced what, std::mt19937& random) const {
    return after([what, &random](std::mt19937*&) {
      if (what == Unsynced::all) return Fate::kept;
      if (what == Unsynced::none) return Fate::lost;
      return static_cast<Fate>(random() % 4);
    });
  }

  std::string* contents(const std::string& path) {
    const auto node = find(path);
    return node ? &node->data : nullptr;
  }

  int open(const std::string& path, OpenMode mode) override {
    auto node = find(path);
    const bool creates = mode != OpenMode::read && mode != OpenMode::directory && !node;
    if (const int error = next(creates)) return error;
    if (creates) {
      const auto parent = find(parent_dir(path));
      if (!parent) return -ENOENT;
      node = std::make_shared<Node>(Node{FileKind::regular});
      assign(parent, {{last(path), node}});
    } else if (!node) {
      return -ENOENT;
    } else if (mode == OpenMode::create || mode == OpenMode::create_private) {
      return -EEXIST;
    }
    const bool directory = node->kind == FileKind::directory;
    if (mode == OpenMode::directory && !directory) return -ENOTDIR;
    return opened(node, path);
  }
  int open_in(int directory, const std::string& name) override {
    if (const int error = next(false)) return error;
    const auto node = at(directory).node->child(name);
    return node ? opened(node, at(directory).path + "/" + name) : -ENOENT;
  }
  int lock(int fd) override {
    if (const int error = next(false)) return error;
    const auto node = at(fd).node;
    for (const auto& [other, file] : open_)
      if (file.locks && file.node == node) return -EWOULDBLOCK;
    open_[fd].locks = true;
    return 0;
  }
  int64_t read(int fd, void* to, size_t bytes, int64_t offset) override {
    if (const int error = next(false)) return error;
    const std::string& data = at(fd).node->data;
    return static_cast<int64_t>(
        data.copy(static_cast<char*>(to), bytes, std::min(data.size(), size_t(offset))));
  }
  int64_t write(int fd, const void* from, size_t bytes) override {
    const bool was_dead = dead_;
    const int error = next(true);
    if (error && (was_dead || !dead_)) return error;
    at(fd).node->data.append(static_cast<const char*>(from), error ? bytes / 2 : bytes);
    return error ? error : static_cast<int64_t>(bytes);
  }
  int truncate(int fd, int64_t size) override {
    if (const int error = next(true)) return error;
    at(fd).node->data.resize(static_cast<size_t>(size));
    return 0;
  }
  int sync(int fd) override {
    if (const int error = next(true)) return error;
    Node& node = *at(fd).node;
    if (node.kind == FileKind::directory) {
      node.durable_names = node.names;
      node.pending.clear();
      return 0;
    }
    node.durable = node.data;
    node.synced = true;
    if (const auto parent = find(parent_dir(at(fd).path))) {
      for (auto change = parent->pending.begin(); change != parent->pending.end();)
        if (change->size() == 1 && change->begin()->second == at(fd).node) {
          parent->durable_names[change->begin()->first] = at(fd).node;
          change = parent->pending.erase(change);
        } else {
          ++change;
        }
    }
    return 0;
  }
  int close(int fd) override {
    open_.erase(fd);
    return next(false);
  }
  int status(int fd, FileStatus& out) override {
    if (const int error = next(false)) return error;
    return describe(*at(fd).node, out);
  }
  int status(const std::string& path, FileStatus& out) override {
    if (const int error = next(false)) return error;
    const auto node = find(path);
    return node ? describe(*node, out) : -ENOENT;
  }
  int rename(const std::string& from, const std::string& to) override {
    if (const int error = next(true)) return error;
    const auto node = find(from), target = find(to);
    if (!node) return -ENOENT;
    if (target && !target->names.empty()) return -ENOTEMPTY;
    return assign(find(parent_dir(to)), {{last(from), nullptr}, {last(to), node}});
  }
  int rename2(const std::string& from, const std::string& to, RenameRule rule) override {
    if (const int error = next(true)) return error;
    const auto node = find(from), target = find(to);
    if (!node) return -ENOENT;
    if (rule == RenameRule::no_replace && target) return -EEXIST;
    if (rule == RenameRule::exchange && !target) return -ENOENT;
    return assign(find(parent_dir(to)), {{last(from), target}, {last(to), node}});
  }
  int make_dir(const std::string& path) override {
    if (find(path)) return next(false) ? -EIO : -EEXIST;
    if (const int error = next(true)) return error;
    const auto parent = find(parent_dir(path));
    if (!parent) return -ENOENT;
    return assign(parent, {{last(path), std::make_shared<Node>(Node{FileKind::directory})}});
  }
  int make_private_dir(const std::string& path) override { return make_dir(path); }
  int remove_file(const std::string& path) override { return remove(path); }
  int remove_dir(const std::string& path) override {
    const auto node = find(path);
    if (node && !node->names.empty()) return next(false) ? -EIO : -ENOTEMPTY;
    return remove(path);
  }
  int list(const std::string& path, std::vector<std::string>& names) override {
    if (const int error = next(false)) return error;
    const auto node = find(path);
    if (!node) return -ENOENT;
    names.clear();
    for (const auto& [name, child] : node->names) names.push_back(name);
    return 0;
  }

 private:
  enum class Fate { kept, lost, half, zeros };  // of a change of a directory: kept, or not
  struct Node;
  using Ref = std::shared_ptr<Node>;
  using Names = std::map<std::string, Ref>;
  struct Node {
    FileKind kind;
    std::string data = {}, durable = {};  // of a file
    bool synced = false;
    Names names = {}, durable_names = {};  // of a directory
    std::vector<Names> pending = {};       // changes that are not durable; null: the name is gone
    Ref child(const std::string& name) const {
      const auto at = names.find(name);
      return at == names.end() ? nullptr : at->second;
    }
  };
  struct Open {
    Ref node;
    std::string path;
    bool locks = false;
  };

  static std::string last(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  static void apply(const Names& change, Names& to) {
    for (const auto& [name, node] : change)
      if (node)
        to[name] = node;
      else
        to.erase(name);
  }
  int assign(const Ref& directory, Names change) {
    apply(change, directory->names);
    directory->pending.push_back(std::move(change));
    return 0;
  }
  int remove(const std::string& path) {
    if (!find(path)) return next(false) ? -EIO : -ENOENT;
    if (const int error = next(true)) return error;
    return assign(find(parent_dir(path)), {{last(path), nullptr}});
  }
  Ref find(const std::string& path) const {
    Ref node = root_;
    for (size_t begin = 1; node && begin < path.size();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      if (end > begin) node = node->child(path.substr(begin, end - begin));
      begin = end + 1;
    }
    return node;
  }
  int opened(const Ref& node, const std::string& path) {
    open_[++last_fd_] = {node, path};
    return last_fd_;
  }
  Open& at(int fd) { return open_.at(fd); }
  static int describe(const Node& node, FileStatus& out) {
    out = {node.kind, static_cast<int64_t>(node.data.size())};
    return 0;
  }
  // The negative error that this call has to end with.
  int next(bool changes) {
    changes_ += changes;
    dead_ |= die_at_ > 0 && changes_ >= die_at_;
    if (dead_) return -EIO;
    return ++calls_ == fail_at_ ? -error_ : 0;
  }

  template <class Choose>
  std::unique_ptr<MemoryFs> after(Choose choose) const {
    auto out = std::make_unique<MemoryFs>();
    std::map<const Node*, Ref> copies;
    out->root_ = copy_of(*root_, choose, copies);
    return out;
  }
  template <class Choose>
  static Ref copy_of(const Node& from, Choose& choose, std::map<const Node*, Ref>& copies) {
    Ref& copy = copies[&from];
    if (copy) return copy;
    copy = std::make_shared<Node>(Node{from.kind});
    std::mt19937* unused = nullptr;
    if (from.kind == FileKind::regular) {
      const Fate fate = from.synced && from.durable == from.data ? Fate::kept : choose(unused);
      if (fate == Fate::kept) copy->data = from.data;
      if (fate == Fate::lost) copy->data = from.durable;
      if (fate == Fate::half) copy->data = from.data.substr(0, from.data.size() / 2);
      if (fate == Fate::zeros) copy->data.assign(from.data.size(), '\0');
      copy->durable = copy->data;
      copy->synced = true;
      return copy;
    }
    Names names = from.durable_names;
    for (const Names& change : from.pending)
      if (choose(unused) == Fate::kept) apply(change, names);
    for (const auto& [name, node] : names) copy->names[name] = copy_of(*node, choose, copies);
    copy->durable_names = copy->names;
    return copies[&from];
  }

  Ref root_;
  std::map<int, Open> open_;
  int last_fd_ = 100;
  int64_t die_at_ = 0, changes_ = 0, fail_at_ = 0, calls_ = 0;
  int error_ = 0;
  bool dead_ = false;
};

}  // namespace pinion
