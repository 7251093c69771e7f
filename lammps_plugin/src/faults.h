// What can go wrong with the other side, each with one sentence for the user.
#pragma once

#include <stdexcept>
#include <string>

namespace forcenet {

// Final: a refusal by either side, or bytes that are not the protocol.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The connection is gone or was never there: waiting for the server may mend it.
struct Lost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// It is there, but not for us yet.
struct Busy : Lost {
  using Lost::Lost;
};

// The sentence with which the other side refuses, or "".
template <typename Work> std::string refusal(Work work)
{
  try {
    work();
  } catch (const Refused &fault) {
    return fault.what();
  }
  return "";
}

}    // namespace forcenet
