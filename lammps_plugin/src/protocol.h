// The client's half of the wire format (docs/protocol.md): bytes only, no sockets, no LAMMPS.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace forcenet {

constexpr std::uint16_t protocol_version = 1;
constexpr std::size_t header_size = 16;
constexpr std::size_t text_limit = 64 * 1024;
constexpr std::size_t error_limit = 4096;

enum class Type : std::uint16_t {
  greeting = 1,
  auth,
  authenticated,
  hello,
  welcome,
  step,
  forces,
  error,
  bye
};

enum class Kind : std::uint32_t { setup = 0, run = 1, minimise = 2 };

struct Header {
  Type type;
  std::uint64_t length;
};

// A whole message: header and payload.
std::string frame(Type type, const std::string &payload);

// Throws Refused for another magic or version, or an unknown type.
Header parse_header(const char *bytes);

// What HELLO tells the server. `masses` is empty if there are none.
struct Settings {
  std::string engine;
  std::string units;
  std::vector<std::string> elements;
  std::vector<double> masses;
  bool mass_check = true;
  std::array<int, 3> periodic{};
  std::string group;
  bool held = false;
  std::int64_t atoms = 0;
  std::string need;
  bool spread = false;    // we take that of a committee
};
std::string hello_text(const Settings &settings);

// What WELCOME tells us; the keys this side has no use for are skipped.
struct Welcome {
  std::string model;
  std::string sha256;
  bool energy = false;
  bool virial = false;
  bool velocities = false;
  bool spread = false;
  std::vector<std::string> warnings;
};
Welcome parse_welcome(const std::string &payload);

// The first value of `key` in a text payload, or an empty string.
std::string text_value(const std::string &payload, const std::string &key);

// The fixed part of STEP.
struct StepHead {
  std::int64_t timestep = 0;
  Kind kind = Kind::setup;
  double dt = 0.0;
  double cell[9]{};    // rows a, b, c
  double origin[3]{};
  std::uint32_t periodic = 0;    // bit 0 a, bit 1 b, bit 2 c
};

// A STEP message that is filled in place, atom by atom; the buffer is kept from step to step.
class StepMessage {
 public:
  void start(const StepHead &head, std::size_t atoms, bool velocities);
  void set_atom(std::size_t row, std::int64_t id, std::int32_t type, const double *x,
                const double *v);
  const std::string &bytes() const { return buffer_; }
  std::size_t atoms() const { return atoms_; }
  std::int64_t timestep() const { return timestep_; }

 private:
  std::string buffer_;
  std::size_t atoms_ = 0;
  std::size_t ids_ = 0, positions_ = 0, velocities_ = 0, types_ = 0;    // offsets; 0 = absent
  std::int64_t timestep_ = 0;
};

// FORCES; `payload` keeps the forces, row by row in the order of the STEP.
struct Answer {
  std::string payload;
  bool has_energy = false;
  bool has_virial = false;
  bool has_spread = false;
  double energy = 0.0;
  double virial[6]{};
  void force(std::size_t row, double *into) const;
  double spread(std::size_t row, std::size_t atoms) const;
};
std::uint64_t forces_length(std::size_t atoms, bool spread);

// Fills the rest of `answer` from its payload. Throws Refused unless it answers that step with
// that many finite forces.
void parse_forces(Answer &answer, std::int64_t timestep, std::size_t atoms);

// The sentence with everything a terminal could obey replaced by '?'.
std::string printable(const std::string &sentence);

}    // namespace forcenet
