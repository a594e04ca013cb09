// Holds the scratch memory of the kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "huge_pages.h"

namespace roipool::cpu {

// Holds memory that is not initialised, aligned to lines of cache, so that no load of a vector spans two of them.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : data_(size == 0 ? nullptr : static_cast<T*>(::operator new(size * sizeof(T), kAlignment))) {
    advise_huge_pages(data_.get(), size * static_cast<int64_t>(sizeof(T)));
  }

  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<T, Delete> data_;
};

// Holds scratch memory whose size is not known beforehand.
template <typename T>
class GrowingScratch {
 public:
  // Returns memory for `size` elements. What it held is lost.
  T* get(int64_t size) {
    if (size > size_) {
      size_ = 0;
      scratch_ = Scratch<T>(0);  // frees the old memory first, so that there are never two at a time
      scratch_ = Scratch<T>(size);
      size_ = size;
    }
    return scratch_.get();
  }

 private:
  Scratch<T> scratch_{0};
  int64_t size_ = 0;
};

}  // namespace roipool::cpu
