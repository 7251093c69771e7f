#include "protocol.h"

#include "faults.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian and this code copies numbers as they lie in memory"
#endif

namespace forcenet {

namespace {

constexpr char magic[] = "FNMD";
constexpr std::size_t step_fixed = 136;
constexpr std::size_t forces_fixed = 80;
constexpr std::uint32_t has_velocities = 1;
constexpr std::uint32_t has_energy = 1, has_virial = 2, has_spread = 4;

template <typename T> void put(std::string &buffer, std::size_t offset, const T &value)
{
  std::memcpy(&buffer[offset], &value, sizeof(T));
}

template <typename T> T get(const char *bytes)
{
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

void put_header(std::string &buffer, Type type, std::uint64_t length)
{
  std::memcpy(&buffer[0], magic, 4);
  put(buffer, 4, protocol_version);
  put(buffer, 6, static_cast<std::uint16_t>(type));
  put(buffer, 8, length);
}

// The shortest decimal form that reads back as the same number.
std::string shortest(double value)
{
  char text[32];
  for (int digits = 15; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

std::string join(const std::vector<std::string> &words)
{
  std::string line;
  for (const auto &word : words) line += (line.empty() ? "" : " ") + word;
  return line;
}

std::vector<std::string> text_values(const std::string &payload, const std::string &key)
{
  std::vector<std::string> values;
  for (std::size_t start = 0; start < payload.size();) {
    std::size_t end = payload.find('\n', start);
    if (end == std::string::npos) end = payload.size();
    const std::string line = payload.substr(start, end - start);
    const std::size_t space = line.find(' ');
    if (line.substr(0, space) == key)
      values.push_back(space == std::string::npos ? "" : line.substr(space + 1));
    start = end + 1;
  }
  return values;
}

}    // namespace

std::string frame(Type type, const std::string &payload)
{
  std::string message(header_size, '\0');
  put_header(message, type, payload.size());
  return message + payload;
}

Header parse_header(const char *bytes)
{
  if (std::memcmp(bytes, magic, 4) != 0)
    throw Refused("what answers there is no forcenet-md server: check the address");
  const auto version = get<std::uint16_t>(bytes + 4);
  if (version != protocol_version)
    throw Refused("the server speaks protocol version " + std::to_string(version) +
                  ", this plugin version " + std::to_string(protocol_version) +
                  ": build the plugin again with the server's release of forcenet-md");
  const auto type = get<std::uint16_t>(bytes + 6);
  if (type < 1 || type > 9)
    throw Refused("the server sent a message of unknown type " + std::to_string(type));
  return {static_cast<Type>(type), get<std::uint64_t>(bytes + 8)};
}

std::string hello_text(const Settings &s)
{
  std::vector<std::string> masses;
  for (double mass : s.masses) masses.push_back(shortest(mass));
  std::string periodic;
  for (int p : s.periodic) periodic += p ? " 1" : " 0";

  return "engine " + s.engine + "\nunits " + s.units + "\nelements " + join(s.elements) +
      "\nmasses " + (masses.empty() ? "none" : join(masses)) + "\nmass_check " +
      (s.mass_check ? "on" : "off") + "\nperiodic" + periodic + "\ngroup " + s.group + "\nheld " +
      (s.held ? "yes" : "no") + "\natoms " + std::to_string(s.atoms) +
      (s.need.empty() ? "" : "\nneed " + s.need) + (s.spread ? "\nspread yes" : "") + "\n";
}

Welcome parse_welcome(const std::string &payload)
{
  Welcome welcome;
  welcome.model = text_value(payload, "model");
  welcome.sha256 = text_value(payload, "sha256");
  welcome.energy = text_value(payload, "energy") == "yes";
  welcome.virial = text_value(payload, "virial") == "yes";
  welcome.velocities = text_value(payload, "velocities") == "yes";
  welcome.spread = text_value(payload, "spread") == "yes";
  welcome.warnings = text_values(payload, "warning");
  return welcome;
}

std::string text_value(const std::string &payload, const std::string &key)
{
  const auto values = text_values(payload, key);
  return values.empty() ? "" : values.front();
}

void StepMessage::start(const StepHead &head, std::size_t atoms, bool velocities)
{
  atoms_ = atoms;
  timestep_ = head.timestep;
  ids_ = header_size + step_fixed;
  positions_ = ids_ + 8 * atoms;
  velocities_ = velocities ? positions_ + 24 * atoms : 0;
  types_ = positions_ + (velocities ? 48 : 24) * atoms;
  buffer_.resize(types_ + 4 * atoms);

  put_header(buffer_, Type::step, buffer_.size() - header_size);
  constexpr std::size_t p = header_size;
  put(buffer_, p + 0, head.timestep);
  put(buffer_, p + 8, static_cast<std::uint32_t>(head.kind));
  put(buffer_, p + 12, velocities ? has_velocities : std::uint32_t{0});
  put(buffer_, p + 16, head.dt);
  std::memcpy(&buffer_[p + 24], head.cell, sizeof(head.cell));
  std::memcpy(&buffer_[p + 96], head.origin, sizeof(head.origin));
  put(buffer_, p + 120, static_cast<std::uint64_t>(atoms));
  put(buffer_, p + 128, head.periodic);
  put(buffer_, p + 132, std::uint32_t{0});
}

void StepMessage::set_atom(std::size_t row, std::int64_t id, std::int32_t type, const double *x,
                           const double *v)
{
  put(buffer_, ids_ + 8 * row, id);
  std::memcpy(&buffer_[positions_ + 24 * row], x, 24);
  if (velocities_) std::memcpy(&buffer_[velocities_ + 24 * row], v, 24);
  put(buffer_, types_ + 4 * row, type);
}

void Answer::force(std::size_t row, double *into) const
{
  std::memcpy(into, &payload[forces_fixed + 24 * row], 24);
}

double Answer::spread(std::size_t row, std::size_t atoms) const
{
  return get<double>(&payload[forces_fixed + 24 * atoms + 8 * row]);
}

std::uint64_t forces_length(std::size_t atoms, bool spread)
{
  return forces_fixed + (spread ? 32 : 24) * static_cast<std::uint64_t>(atoms);
}

void parse_forces(Answer &answer, std::int64_t timestep, std::size_t atoms)
{
  const char *bytes = answer.payload.data();
  const std::size_t size = answer.payload.size();
  const auto flags = size < forces_fixed ? 0 : get<std::uint32_t>(bytes + 16);
  answer.has_spread = flags & has_spread;
  if (size != forces_length(atoms, answer.has_spread) || get<std::uint64_t>(bytes + 8) != atoms)
    throw Refused("the server answered for another number of atoms than it was asked for");
  if (get<std::int64_t>(bytes) != timestep)
    throw Refused("the server answered for another timestep than it was asked for");

  answer.has_energy = flags & has_energy;
  answer.has_virial = flags & has_virial;
  answer.energy = get<double>(bytes + 24);
  std::memcpy(answer.virial, bytes + 32, sizeof(answer.virial));

  // One sum over everything is not finite if any number is not.
  double sum = answer.energy;
  for (double w : answer.virial) sum += std::fabs(w);
  for (std::size_t at = forces_fixed; at < size; at += 8) sum += std::fabs(get<double>(bytes + at));
  if (!std::isfinite(sum))
    throw Refused("the server sent forces that are not finite at step " +
                  std::to_string(timestep));
}

std::string printable(const std::string &sentence)
{
  std::string clean = sentence.substr(0, error_limit);
  for (std::size_t i = 0; i < clean.size(); ++i) {
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(clean[k]); };
    if (byte(i) < 32 || byte(i) == 127) clean[i] = '?';
    // U+0080 to U+009F are control characters too.
    if (byte(i) == 0xC2 && i + 1 < clean.size() && byte(i + 1) < 0xA0) clean[i] = clean[i + 1] = '?';
  }
  return clean;
}

}    // namespace forcenet
