// SPDX-License-Identifier: Apache-2.0
// A memfd with a head, a board and a heap for each rank. Large blocks lie in huge pages where the
// kernel has them: reductions walk through two buffers at once, and a page of 4 KiB every few
// nanoseconds costs a fifth of their time.
#include "pinion/dist/group/shm_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

constexpr int64_t kPage = 4096, kHugePage = 2 << 20;
constexpr int kMaxRanks = 1024;
constexpr uint64_t kMagic = 0x32'6d'68'73'6e'6f'69'70;  // "pionshm2"

int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }
int64_t pages(int64_t bytes) { return round_up(bytes, kPage); }

// Where the heap of a rank begins; that of rank `ranks` would begin where the segment ends.
int64_t heap_begin(int ranks, int64_t heap_bytes, int rank) {
  return round_up(kPage + Board::bytes(ranks), kHugePage) + rank * round_up(heap_bytes, kHugePage);
}

// Memory whose addresses are multiples of kHugePage where its offsets are.
void* map_aligned(int fd, int64_t bytes) {
  const int64_t room = bytes + kHugePage;
  void* space = mmap(nullptr, static_cast<size_t>(room), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return space;
  auto* begin = static_cast<std::byte*>(space);
  const int64_t before = -reinterpret_cast<intptr_t>(begin) & (kHugePage - 1);
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  munmap(begin + before + bytes, static_cast<size_t>(kHugePage - before));
  void* data = mmap(begin + before, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
  if (data == MAP_FAILED) munmap(begin + before, static_cast<size_t>(bytes));
  return data;
}

// Makes huge pages of the whole ones in a block of fresh memory, in one call, as each waits for all
// cores. A kernel that will not (before Linux 6.1, or told so) leaves it as it is.
void use_huge_pages(int fd, std::byte* data, int64_t offset, int64_t bytes) {
#ifndef MADV_COLLAPSE
  constexpr int MADV_COLLAPSE = 25;
#endif
  const int64_t whole = bytes / kHugePage * kHugePage;
  for (int64_t at = 0; at < whole; at += kHugePage)  // it takes none that has no page at all
    if (fallocate(fd, 0, offset + at, kPage) != 0) return;
  if (whole > 0) madvise(data + offset, static_cast<size_t>(whole), MADV_COLLAPSE);
}

}  // namespace

struct ShmSegment::Head {
  uint64_t magic;
  int64_t ranks, heap_bytes;
};

// Free ranges by offset, of the one heap that this process allocates from.
class ShmSegment::Heap {
 public:
  Heap(int64_t begin, int64_t bytes) : free_{{begin, bytes}} {}

  int64_t take(int64_t bytes) {  // -1 when there is no room
    const std::lock_guard lock(mutex_);
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      const auto [offset, size] = *range;
      const int64_t at = round_up(offset, bytes < kHugePage ? kPage : kHugePage);
      const int64_t left = offset + size - at - bytes;
      if (left < 0) continue;
      free_.erase(range);
      if (at > offset) free_[offset] = at - offset;
      if (left > 0) free_[at + bytes] = left;
      return at;
    }
    return -1;
  }
  void give_back(int64_t offset, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto at = free_.emplace(offset, bytes).first;
    if (const auto next = std::next(at);
        next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at == free_.begin()) return;
    const auto before = std::prev(at);
    if (before->first + before->second != at->first) return;
    before->second += at->second;
    free_.erase(at);
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, int64_t> free_;
};

std::shared_ptr<ShmSegment> ShmSegment::create(int ranks, int64_t heap_bytes) {
  PINION_CHECK(ranks >= 1 && ranks <= kMaxRanks, "shm segment: expected 1 to ", kMaxRanks,
               " ranks, got ", ranks);
  if (heap_bytes == 0)
    heap_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  heap_bytes = pages(heap_bytes);
  const int64_t bytes = heap_begin(ranks, heap_bytes, ranks);
  const int fd = memfd_create("pinion-shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  PINION_REQUIRE(out_of_memory, fd >= 0,
                 "shm segment: memfd_create failed: ", std::strerror(errno));
  if (ftruncate(fd, bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    const int error = errno;
    close(fd);
    fail(ErrorKind::out_of_memory,
         {"shm segment: no shared memory of ", bytes, " bytes: ", std::strerror(error)});
  }
  const Head head{kMagic, ranks, heap_bytes};
  if (pwrite(fd, &head, sizeof head, 0) != sizeof head) {
    close(fd);
    fail(ErrorKind::out_of_memory, {"shm segment: no memory for its first page"});
  }
  return open(fd);
}

std::shared_ptr<ShmSegment> ShmSegment::open(int fd) {
  struct stat info {};
  Head head{};
  const bool ours = fstat(fd, &info) == 0 && pread(fd, &head, sizeof head, 0) == sizeof head &&
                    head.magic == kMagic && head.ranks >= 1 && head.ranks <= kMaxRanks &&
                    info.st_size == heap_begin(static_cast<int>(head.ranks), head.heap_bytes,
                                               static_cast<int>(head.ranks));
  PINION_REQUIRE(config, ours, "shm segment: expected the descriptor of one, got ", fd);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  return std::shared_ptr<ShmSegment>(new ShmSegment(fd, info.st_size));
}

std::shared_ptr<ShmSegment> ShmSegment::from_environment() {
  const char* text = std::getenv("PINION_SHM_FD");
  if (!text) return nullptr;
  int fd = -1;
  const char* end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, fd);
  PINION_REQUIRE(config, error == std::errc() && at == end && fd >= 0,
                 "PINION_SHM_FD: expected a descriptor, got \"", text, "\"");
  // A second group in this process shares the mapping, so that its symmetric memory is none that
  // tensors of the first still have.
  static std::mutex mutex;
  static std::weak_ptr<ShmSegment> known;
  static int known_fd = -1;
  const std::lock_guard lock(mutex);
  if (auto segment = known.lock(); segment && known_fd == fd) return segment;
  auto segment = open(dup(fd));
  known = segment, known_fd = fd;
  return segment;
}

ShmSegment::ShmSegment(int fd, int64_t bytes) : fd_(fd), bytes_(bytes) {
  void* data = map_aligned(fd, bytes);
  if (data == MAP_FAILED) {
    const int error = errno;
    close(fd);
    fail(ErrorKind::out_of_memory,
         {"shm segment: cannot map ", bytes, " bytes: ", std::strerror(error)});
  }
  data_ = static_cast<std::byte*>(data);
  const auto* head = reinterpret_cast<const Head*>(data_);
  board_ = std::make_unique<Board>(data_ + kPage, static_cast<int>(head->ranks));
}

ShmSegment::~ShmSegment() {
  munmap(data_, static_cast<size_t>(bytes_));
  close(fd_);
}

std::byte* ShmSegment::allocate(int rank, int64_t bytes) {
  const auto* head = reinterpret_cast<const Head*>(data_);
  if (!heap_)
    heap_ = std::make_unique<Heap>(heap_begin(ranks(), head->heap_bytes, rank), head->heap_bytes);
  bytes = pages(bytes);
  const int64_t offset = heap_->take(bytes);
  PINION_REQUIRE(out_of_memory, offset >= 0, "symmetric: expected room for ", bytes,
                 " bytes in the heap of rank ", rank, ", which has ", head->heap_bytes);
  use_huge_pages(fd_, data_, offset, bytes);
  // Pages are taken now, where a lack of memory is an error, and not on first touch, where it
  // kills.
  if (fallocate(fd_, 0, offset, bytes) != 0) {
    const int error = errno;
    heap_->give_back(offset, bytes);
    fail(ErrorKind::out_of_memory,
         {"symmetric: no shared memory for ", bytes, " bytes: ", std::strerror(error)});
  }
  return data_ + offset;
}

void ShmSegment::release(std::byte* block, int64_t bytes) {
  bytes = pages(bytes);
  // Gives the pages back, and zeros to whoever comes next.
  if (madvise(block, static_cast<size_t>(bytes), MADV_REMOVE) != 0)
    std::memset(block, 0, static_cast<size_t>(bytes));
  heap_->give_back(block - data_, bytes);
}

}  // namespace pinion::dist
