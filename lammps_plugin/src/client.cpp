#include "client.h"

#include "faults.h"
#include "sha256.h"

#include <algorithm>
#include <fstream>
#include <thread>

namespace forcenet {

namespace {

constexpr double handshake_seconds = 60.0;
constexpr double first_pause = 0.1, longest_pause = 2.0;

std::string random_bytes(std::size_t count)
{
  std::string bytes(count, '\0');
  std::ifstream source("/dev/urandom", std::ios::binary);
  if (!source.read(&bytes[0], static_cast<std::streamsize>(count)))
    throw Refused("this system gives no random numbers for the secret's challenge");
  return bytes;
}

std::string from_hex(const std::string &digits)
{
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return bytes;
}

// In a time that does not depend on where they differ.
bool same(const std::string &a, const std::string &b)
{
  unsigned char difference = a.size() != b.size();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) difference |= a[i] ^ b[i];
  return difference == 0;
}

}    // namespace

Client::Client(const ClientOptions &options, Say say) :
    options_(options), say_(std::move(say)),
    address_(options.door < 0 ? Address(options.address) : Address(options.door))
{
}

Client::~Client()
{
  if (!socket_.is_open()) return;
  try {
    socket_.send(frame(Type::bye, ""), Deadline(0.5));
  } catch (const Lost &) {
    // gone already, which is what BYE asks for
  }
}

const Welcome &Client::hello(const Settings &settings)
{
  settings_ = hello_text(settings);
  patiently("before the run", [this] {
    if (!socket_.is_open())
      connect();
    else
      introduce();
  });
  return welcome_;
}

void Client::evaluate(const StepMessage &step, Answer &answer)
{
  patiently("at step " + std::to_string(step.timestep()), [&] {
    if (!socket_.is_open()) connect();
    const Deadline deadline(options_.timeout);
    send(step.bytes(), deadline);
    answer.payload = expect(Type::forces, forces_length(step.atoms(), welcome_.spread), deadline);
  });
  parse_forces(answer, step.timestep(), step.atoms());
}

// Tries until it works, is refused, or `retry` seconds have passed since the server was lost.
void Client::patiently(const std::string &when, const std::function<void()> &attempt)
{
  Deadline patience;
  bool waiting = false;
  for (double pause = first_pause;; pause = std::min(2.0 * pause, longest_pause)) {
    try {
      attempt();
      if (waiting) say_("forcenet: the server at " + address_.text + " is back, going on " + when);
      return;
    } catch (const Lost &fault) {
      socket_.close();
      const std::string sentence = lost(when, fault.what());
      if (options_.retry <= 0.0) throw Refused(sentence);
      if (!waiting) {
        waiting = true;
        patience = Deadline(options_.retry);
        say_("forcenet: " + sentence + options_.waiting());
      }
      if (patience.milliseconds_left() == 0) throw Refused(sentence);
      std::this_thread::sleep_for(std::chrono::duration<double>(pause));
    } catch (const Refused &) {
      socket_.close();
      throw;
    }
  }
}

void Client::connect()
{
  const Deadline deadline(handshake_seconds);
  socket_.connect(address_, deadline);
  const std::string greeting = expect(Type::greeting, text_limit, deadline);
  authenticate(text_value(greeting, "challenge"));
  introduce();
}

void Client::authenticate(const std::string &challenge)
{
  if (challenge == "none") {
    if (!options_.secret.empty())
      throw Refused("the server at " + address_.text +
                    " knows no secret but this side was given one: start the server with the"
                    " secret, or take it away here");
    return;
  }
  if (options_.secret.empty())
    throw Refused("the server at " + address_.text +
                  " asks for a secret: give 'secret FILE' or set FORCENET_MD_SECRET");
  if (challenge.size() != 64 ||
      challenge.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    throw Refused("the server sent a challenge that is not 64 hexadecimal digits");

  const Deadline deadline(handshake_seconds);
  const std::string ours = random_bytes(32);
  const std::string nonces = from_hex(challenge) + ours;
  const std::string mac = hex(hmac_sha256(options_.secret, "forcenet client" + nonces));
  send(frame(Type::auth, "nonce " + hex(ours) + "\nmac " + mac + "\n"), deadline);
  const std::string reply = expect(Type::authenticated, text_limit, deadline);
  if (!same(text_value(reply, "mac"),
            hex(hmac_sha256(options_.secret, "forcenet server" + nonces))))
    throw Refused("the server at " + address_.text + " does not know the secret it asks for");
}

void Client::introduce()
{
  const Deadline deadline(handshake_seconds);
  send(frame(Type::hello, settings_), deadline);
  const Welcome news = parse_welcome(expect(Type::welcome, text_limit, deadline));
  if (welcomed_ && (news.sha256 != welcome_.sha256 || news.model != welcome_.model))
    throw Refused("the server at " + address_.text + " now serves the model '" + news.model +
                  "', another than before: give the command forcenet again to go on with it");
  welcome_ = news;
  welcomed_ = true;
}

void Client::send(const std::string &message, const Deadline &deadline)
{
  try {
    socket_.send(message, deadline);
  } catch (const Lost &) {
    // A server that refuses a message says why before it closes: that sentence is the better one.
    expect(Type::error, error_limit, Deadline(1.0));
    throw;
  }
}

// The payload of the next message, which must be of that type and within the limit.
std::string Client::expect(Type type, std::size_t limit, const Deadline &deadline)
{
  char head[header_size];
  socket_.receive(head, header_size, deadline);
  const Header header = parse_header(head);
  if (header.type == Type::error) limit = error_limit;
  if (header.type != type && header.type != Type::error)
    throw Refused("the server sent message type " +
                  std::to_string(static_cast<int>(header.type)) + " where type " +
                  std::to_string(static_cast<int>(type)) + " belongs");
  if (header.length > limit)
    throw Refused("the server announced a message of " + std::to_string(header.length) +
                  " bytes where at most " + std::to_string(limit) + " belong");
  std::string payload(header.length, '\0');
  socket_.receive(&payload[0], payload.size(), deadline);
  if (header.type == Type::error) throw Refused(payload);
  return payload;
}

std::string Client::lost(const std::string &when, const std::string &why) const
{
  if (address_.door >= 0) return "the model in this process was lost " + when + " (" + why + ")";
  const std::string subject = "the force server at " + address_.text;
  const std::string waiting =
      options_.retry > 0.0 ? "" : std::string(", or give 'retry SECONDS' to ") +
          (welcomed_ ? "let LAMMPS wait for it" : "wait while it loads its model");
  if (!welcomed_)
    return subject + " cannot be reached (" + why +
        "): start it with 'forcenet-md serve --model MODEL --listen " + address_.text + "'" +
        waiting;
  return subject + " was lost " + when + " (" + why + "): look at its messages" + waiting;
}

}    // namespace forcenet
