// Holds the C++ side to the golden messages of tests/data/protocol: `forcenet_golden write NAME`
// prints the bytes it makes of the values in that folder's make.py, `forcenet_golden read` reads
// such bytes from standard input and prints the values it finds, `forcenet_golden sha256` and
// `forcenet_golden hmac KEY` print the digest of standard input.
#include "faults.h"
#include "protocol.h"
#include "sha256.h"

#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>

namespace {

using namespace forcenet;

std::string step(bool velocities)
{
  StepHead head;
  head.timestep = 123456789012;
  head.kind = velocities ? Kind::run : Kind::minimise;
  head.dt = 0.002;
  const double cell[9] = {10.0, 0.0, 0.0, 1.5, 9.0, 0.0, -0.5, 0.25, 8.0};
  const double origin[3] = {-1.0, -2.0, -3.0};
  std::copy(cell, cell + 9, head.cell);
  std::copy(origin, origin + 3, head.origin);
  head.periodic = 3;

  const std::int64_t ids[3] = {2, 7, 4294967299};
  const std::int32_t types[3] = {1, 2, 1};
  const double x[3][3] = {{0.1, 0.2, 0.3}, {1.1, 1.2, 1.3}, {2.1, 2.2, 2.3}};
  const double v[3][3] = {{-0.1, -0.2, -0.3}, {-1.1, -1.2, -1.3}, {-2.1, -2.2, -2.3}};
  StepMessage message;
  message.start(head, 3, velocities);
  for (std::size_t i = 0; i < 3; ++i) message.set_atom(i, ids[i], types[i], x[i], v[i]);
  return message.bytes();
}

std::string auth()
{
  std::string server, client;
  for (int i = 0; i < 32; ++i) {
    server += static_cast<char>(i);
    client += static_cast<char>(255 - i);
  }
  const std::string secret = "correct horse battery staple";
  const std::string mac = hex(hmac_sha256(secret, "forcenet client" + server + client));
  return frame(Type::auth, "nonce " + hex(client) + "\nmac " + mac + "\n");
}

std::string hello(bool spread)
{
  Settings settings;
  settings.engine = "lammps 20250722";
  settings.units = "metal";
  settings.elements = {"Ag", "Au"};
  settings.masses = {107.8682, 196.96657};
  settings.periodic = {1, 1, 0};
  settings.group = "all";
  settings.atoms = 3;
  settings.need = "energy virial";
  settings.spread = spread;
  return frame(Type::hello, hello_text(settings));
}

std::string make(const std::string &name)
{
  if (name == "step") return step(false);
  if (name == "step_velocities") return step(true);
  if (name == "auth") return auth();
  if (name == "hello") return hello(false);
  if (name == "hello_spread") return hello(true);
  if (name == "bye") return frame(Type::bye, "");
  throw Refused("no message is called " + name);
}

void read(const std::string &bytes)
{
  if (bytes.size() < header_size) throw Refused("shorter than a header");
  const Header header = parse_header(bytes.data());
  const std::string payload = bytes.substr(header_size);
  if (header.length != payload.size()) throw Refused("another length than announced");
  std::cout << "type " << static_cast<int>(header.type) << "\n";

  if (header.type == Type::forces) {
    Answer answer;
    answer.payload = payload;
    parse_forces(answer, 123456789012, 3);
    std::cout << "energy " << answer.has_energy << " " << answer.energy << "\nvirial "
              << answer.has_virial;
    for (double w : answer.virial) std::cout << " " << w;
    for (std::size_t i = 0; i < 3; ++i) {
      double f[3];
      answer.force(i, f);
      std::cout << "\nforce " << f[0] << " " << f[1] << " " << f[2];
    }
    for (std::size_t i = 0; answer.has_spread && i < 3; ++i)
      std::cout << "\nspread " << answer.spread(i, 3);
    std::cout << "\n";
  } else if (header.type == Type::welcome) {
    const Welcome welcome = parse_welcome(payload);
    std::cout << "model " << welcome.model << "\nsha256 " << welcome.sha256 << "\nenergy "
              << welcome.energy << "\nvirial " << welcome.virial << "\nvelocities "
              << welcome.velocities << "\n";
    if (welcome.spread) std::cout << "spread 1\n";
    for (const auto &warning : welcome.warnings) std::cout << "warning " << warning << "\n";
  } else if (header.type == Type::error) {
    std::cout << payload << "\n";
  } else {
    for (const char *key : {"challenge", "mac"})
      std::cout << key << " " << text_value(payload, key) << "\n";
  }
}

}    // namespace

int main(int argc, char **argv)
try {
  const std::string verb = argc > 1 ? argv[1] : "", name = argc > 2 ? argv[2] : "";
  if (verb == "write") {
    std::cout << make(name);
    return 0;
  }
  const std::string input{std::istreambuf_iterator<char>(std::cin),
                          std::istreambuf_iterator<char>()};
  if (verb == "read")
    read(input);
  else if (verb == "sha256")
    std::cout << hex(sha256(input)) << "\n";
  else if (verb == "hmac")
    std::cout << hex(hmac_sha256(name, input)) << "\n";
  else
    throw Refused("usage: forcenet_golden write NAME | read | sha256 | hmac KEY");
  return 0;
} catch (const std::exception &fault) {
  std::fprintf(stderr, "%s\n", fault.what());
  return 1;
}
