// Says what a C++ test expects: a value that differs is printed, and fails the program.
#pragma once

#include <cstdlib>
#include <iostream>
#include <type_traits>

template <typename T>
auto printable(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<long long>(value);
  } else {
    return value;
  }
}

#define EXPECT_EQ(actual, expected)                                                                              \
  do {                                                                                                           \
    const auto actual_value = actual;                                                                            \
    const decltype(actual_value) expected_value = expected;                                                      \
    if (actual_value != expected_value) {                                                                        \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #actual " is " << printable(actual_value) << ", and not " \
                << printable(expected_value) << std::endl;                                                       \
      std::exit(1);                                                                                              \
    }                                                                                                            \
  } while (false)
