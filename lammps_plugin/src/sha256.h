// SHA-256 (FIPS 180-4) and HMAC (RFC 2104), for the challenge of docs/protocol.md.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>

namespace forcenet {

namespace detail {

using Words = std::array<std::uint32_t, 64>;

// The first 32 bits of the fractional part of root(p), exact in long double or not at all: the
// constants are those of the standard, which defines them so.
inline std::uint32_t fraction(long double root)
{
  return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
}

struct Constants {
  Words k{};
  std::array<std::uint32_t, 8> start{};

  Constants()
  {
    int found = 0;
    for (int n = 2; found < 64; ++n) {
      bool prime = true;
      for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
      if (!prime) continue;
      if (found < 8) start[found] = fraction(std::sqrt(static_cast<long double>(n)));
      k[found++] = fraction(std::cbrt(static_cast<long double>(n)));
    }
  }
};

inline std::uint32_t rotate(std::uint32_t x, int by)
{
  return (x >> by) | (x << (32 - by));
}

inline void compress(std::array<std::uint32_t, 8> &state, const unsigned char *block, const Words &k)
{
  Words w{};
  for (int i = 0; i < 16; ++i)
    w[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
        std::uint32_t{block[4 * i + 2]} << 8 | std::uint32_t{block[4 * i + 3]};
  for (int i = 16; i < 64; ++i) {
    const auto s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const auto s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }

  auto [a, b, c, d, e, f, g, h] = state;
  for (int i = 0; i < 64; ++i) {
    const auto s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const auto t1 = h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i];
    const auto s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const auto t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g; g = f; f = e; e = d + t1;
    d = c; c = b; b = a; a = t1 + t2;
  }
  const std::uint32_t sum[8] = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) state[i] += sum[i];
}

}    // namespace detail

// 32 bytes.
inline std::string sha256(std::string message)
{
  static const detail::Constants constants;
  const std::uint64_t bits = 8 * static_cast<std::uint64_t>(message.size());
  message += '\x80';
  while (message.size() % 64 != 56) message += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) message += static_cast<char>(bits >> shift);

  auto state = constants.start;
  for (std::size_t i = 0; i < message.size(); i += 64)
    detail::compress(state, reinterpret_cast<const unsigned char *>(&message[i]), constants.k);

  std::string digest;
  for (auto word : state)
    for (int shift = 24; shift >= 0; shift -= 8) digest += static_cast<char>(word >> shift);
  return digest;
}

inline std::string hmac_sha256(std::string key, const std::string &message)
{
  if (key.size() > 64) key = sha256(key);
  key.resize(64, '\0');
  std::string inner = key, outer = key;
  for (char &c : inner) c ^= 0x36;
  for (char &c : outer) c ^= 0x5c;
  return sha256(outer + sha256(inner + message));
}

inline std::string hex(const std::string &bytes)
{
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : bytes) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}    // namespace forcenet
