//! gRPC status codes and HTTP statuses: one table, read in both directions, and the escaping of `grpc-message`.
//!
//! The table is the Open Inference Protocol's, completed by the HTTP mapping that google.rpc.Code documents. An
//! answer that is not gRPC at all follows another table, gRPC's own ("HTTP to gRPC Status Code Mapping" in the
//! gRPC documents), because it comes from something between the peers and not from the application.

use std::borrow::Cow;

use http::StatusCode;
pub use tonic::Code;

/// The client closed the request; nginx's number for what HTTP has no status for.
const CLIENT_CLOSED_REQUEST: u16 = 499;

struct Row {
    code: Code,
    name: &'static str,
    http: u16,
}

const fn row(code: Code, name: &'static str, http: u16) -> Row {
    Row { code, name, http }
}

/// In the order of the codes' numbers.
const TABLE: [Row; 17] = [
    row(Code::Ok, "OK", 200),
    row(Code::Cancelled, "CANCELLED", CLIENT_CLOSED_REQUEST),
    row(Code::Unknown, "UNKNOWN", 500),
    row(Code::InvalidArgument, "INVALID_ARGUMENT", 400),
    row(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
    row(Code::NotFound, "NOT_FOUND", 404),
    row(Code::AlreadyExists, "ALREADY_EXISTS", 409),
    row(Code::PermissionDenied, "PERMISSION_DENIED", 403),
    row(Code::ResourceExhausted, "RESOURCE_EXHAUSTED", 429),
    row(Code::FailedPrecondition, "FAILED_PRECONDITION", 400),
    row(Code::Aborted, "ABORTED", 409),
    row(Code::OutOfRange, "OUT_OF_RANGE", 400),
    row(Code::Unimplemented, "UNIMPLEMENTED", 501),
    row(Code::Internal, "INTERNAL", 500),
    row(Code::Unavailable, "UNAVAILABLE", 503),
    row(Code::DataLoss, "DATA_LOSS", 500),
    row(Code::Unauthenticated, "UNAUTHENTICATED", 401),
];

fn row_of(code: Code) -> &'static Row {
    &TABLE[code as usize]
}

/// The HTTP status that answers a REST call which ended with this code.
pub fn http_status(code: Code) -> StatusCode {
    StatusCode::from_u16(row_of(code).http).expect("the table holds valid statuses")
}

/// The code's name as gRPC spells it, such as `INVALID_ARGUMENT`.
pub fn code_name(code: Code) -> &'static str {
    row_of(code).name
}

/// The code with this name.
pub fn code_named(name: &str) -> Option<Code> {
    TABLE
        .iter()
        .find(|row| row.name == name)
        .map(|row| row.code)
}

/// The code of a REST answer with this status. Where several codes share a status, the plainest: 400 is
/// INVALID_ARGUMENT, 409 ALREADY_EXISTS and 500 INTERNAL.
pub fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        405 => Code::Unimplemented,
        408 => Code::DeadlineExceeded,
        413 => Code::ResourceExhausted,
        502 => Code::Unavailable,
        500 => Code::Internal,
        other => match TABLE.iter().find(|row| row.http == other) {
            Some(row) => row.code,
            None if status.is_success() => Code::Ok,
            None if status.is_client_error() => Code::InvalidArgument,
            None if status.is_server_error() => Code::Internal,
            None => Code::Unknown,
        },
    }
}

/// The code that a gRPC client takes from an HTTP answer without `grpc-status`.
pub fn code_without_grpc_status(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Escapes a message for the `grpc-message` trailer: bytes outside printable ASCII, and `%`, become `%XX`.
pub fn encode_message(message: &str) -> Cow<'_, str> {
    if message.bytes().all(stands_for_itself) {
        return Cow::Borrowed(message);
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if stands_for_itself(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push(char::from(HEX[usize::from(byte >> 4)]));
            escaped.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(escaped)
}

/// Reads a `grpc-message` trailer. As gRPC asks, nothing is refused: a wrong escape stands for itself, and bytes
/// that are not UTF-8 become the replacement character.
pub fn decode_message(escaped: &[u8]) -> Cow<'_, str> {
    if !escaped.contains(&b'%') {
        return String::from_utf8_lossy(escaped);
    }
    let mut message = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match after.split_first_chunk::<2>() {
            Some((&[high, low], after)) if first == b'%' => match hex_byte(high, low) {
                Some(byte) => {
                    message.push(byte);
                    rest = after;
                }
                None => message.push(first),
            },
            _ => message.push(first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&message).into_owned())
}

/// The byte that two hexadecimal digits of either case stand for.
pub(crate) fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let high = char::from(high).to_digit(16)?;
    let low = char::from(low).to_digit(16)?;
    u8::try_from(high << 4 | low).ok()
}

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'%'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_codes() {
        for (number, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, number, "{}", row.name);
            assert_eq!(
                Code::from_i32(i32::try_from(number).unwrap()),
                row.code,
                "{}",
                row.name
            );
            assert_eq!(code_named(row.name), Some(row.code));
            assert_eq!(code_name(row.code), row.name);
        }
        assert_eq!(code_named("invalid_argument"), None);
    }

    #[test]
    fn statuses_are_the_protocols() {
        for (code, status) in [
            (Code::Ok, 200),
            (Code::InvalidArgument, 400),
            (Code::NotFound, 404),
            (Code::Unavailable, 503),
            (Code::Unimplemented, 501),
            (Code::Internal, 500),
            (Code::DeadlineExceeded, 504),
            (Code::ResourceExhausted, 429),
            (Code::Cancelled, 499),
            (Code::Unauthenticated, 401),
            (Code::PermissionDenied, 403),
        ] {
            assert_eq!(http_status(code).as_u16(), status);
            assert_eq!(code_of_http(http_status(code)), code);
        }
    }

    #[test]
    fn statuses_outside_the_table_have_a_code_too() {
        for (status, code) in [
            (202, Code::Ok),
            (302, Code::Unknown),
            (405, Code::Unimplemented),
            (408, Code::DeadlineExceeded),
            (409, Code::AlreadyExists),
            (413, Code::ResourceExhausted),
            (418, Code::InvalidArgument),
            (502, Code::Unavailable),
            (507, Code::Internal),
        ] {
            assert_eq!(code_of_http(StatusCode::from_u16(status).unwrap()), code);
        }
    }

    #[test]
    fn answers_that_are_not_grpc_follow_grpcs_own_table() {
        for (status, code) in [
            (200, Code::Unknown),
            (400, Code::Internal),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (500, Code::Unknown),
            (504, Code::Unavailable),
        ] {
            assert_eq!(
                code_without_grpc_status(StatusCode::from_u16(status).unwrap()),
                code
            );
        }
    }

    #[test]
    fn messages_are_escaped_as_grpc_says() {
        assert_eq!(encode_message("plain ~ text"), "plain ~ text");
        assert_eq!(encode_message("100%\né"), "100%25%0A%C3%A9");
        assert_eq!(decode_message(b"100%25%0a%C3%A9"), "100%\né");
        assert_eq!(decode_message(b"%"), "%");
        assert_eq!(decode_message(b"%4"), "%4");
        assert_eq!(decode_message(b"%zz%41"), "%zzA");
        assert_eq!(decode_message(b"%+1"), "%+1");
        assert_eq!(decode_message(b"%FF"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn messages_are_read_back(message: String) {
            let escaped = encode_message(&message);
            prop_assert!(escaped.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(decode_message(escaped.as_bytes()), message.as_str());
        }

        #[test]
        fn any_bytes_are_read_without_panic(escaped: Vec<u8>) {
            prop_assert!(decode_message(&escaped).len() <= escaped.len() * 3);
        }
    }
}
