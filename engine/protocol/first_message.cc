#include "engine/protocol/first_message.h"

#include <google/protobuf/io/coded_stream.h>

namespace godwit::engine {

using model::ControlMessage;

namespace {

// protobuf's encoding: a field's number and its wire type.
constexpr uint32_t tag_of(int field) {
  constexpr uint32_t kLengthDelimited = 2;
  return static_cast<uint32_t>(field) << 3 | kLengthDelimited;
}

template <typename Message>
Result<FirstMessage> parse(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return fail("read", "the first message", EPROTO, "it is malformed");
  message.DiscardUnknownFields();
  return message;
}

}  // namespace

Result<FirstMessage> parse_first_message(std::string_view bytes) {
  if (bytes.size() > kFirstMessageBytesMax) return fail("read", "the first message", EMSGSIZE);
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                static_cast<int>(bytes.size()));
  const uint32_t tag = stream.ReadTag();
  uint32_t length = 0;
  const bool whole =
      stream.ReadVarint32(&length) && length == bytes.size() - static_cast<size_t>(stream.CurrentPosition());
  if (whole && tag == tag_of(ControlMessage::kHello))
    return parse<model::Hello>(bytes.substr(bytes.size() - length));
  if (whole && tag == tag_of(ControlMessage::kInquiry))
    return parse<model::Inquiry>(bytes.substr(bytes.size() - length));
  return fail("read", "the first message", EPROTO, "it is neither a Hello nor an Inquiry");
}

}  // namespace godwit::engine
