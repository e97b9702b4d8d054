//! Requests that carry up to 16 MiB for a program's standard input, read as they arrive: what the
//! program does not take stays with the client. The fields around the data are small, and every
//! encoder writes fields in the order of their numbers.

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;

use crate::limits::{INPUT_HEAD_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX};

/// What stands before the data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The task.
    pub(crate) task_id: String,
    /// The program; none is the sandbox's own.
    pub(crate) exec_id: String,
    /// Where the data begins.
    pub(crate) offset: u64,
}

/// The numbers of the fields, which differ between the two requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    task_id: u64,
    exec_id: Option<u64>,
    offset: u64,
    data: u64,
    eof: u64,
}

/// Of `TaskExecStdinWriteRequest`.
pub(crate) const OF_EXEC: Numbers =
    Numbers { task_id: 1, exec_id: Some(2), offset: 3, data: 4, eof: 5 };

/// Of `SandboxStdinWriteV2Request`.
pub(crate) const OF_SANDBOX: Numbers =
    Numbers { task_id: 1, exec_id: None, offset: 2, data: 3, eof: 4 };

/// One message that arrives.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Body,
    held: Bytes,
    numbers: Numbers,
    /// Bytes of the message that were not read yet.
    left: u64,
    /// Bytes of its data that were not read yet.
    data_left: u64,
    eof: bool,
}

fn invalid(why: &str) -> Status {
    Status::invalid_argument(format!("the request is not a valid message: {why}"))
}

impl Incoming {
    /// Reads what stands before the data.
    pub(crate) async fn begin(body: Body, numbers: Numbers) -> Result<(Head, Self), Status> {
        let mut incoming =
            Self { body, held: Bytes::new(), numbers, left: 5, data_left: 0, eof: false };
        let mut frame = [0; 5];
        for byte in &mut frame {
            *byte = incoming.byte().await?;
        }
        let [compressed, length @ ..] = frame;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not served"));
        }
        incoming.left = u32::from_be_bytes(length).into();
        let mut head = Head::default();
        let mut head_left = INPUT_HEAD_BYTES_MAX;
        while incoming.left > 0 {
            let before = incoming.left;
            if incoming.field(Some(&mut head), head_left).await? {
                break;
            }
            head_left = head_left
                .checked_sub(before - incoming.left)
                .ok_or_else(|| invalid("its first fields are too long"))?;
        }
        Ok((head, incoming))
    }

    /// The next bytes of the data; none at its end.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>, Status> {
        if self.data_left == 0 {
            return Ok(None);
        }
        self.fill().await?;
        let most = self.held.len().min(OUTPUT_MESSAGE_BYTES_MAX) as u64;
        let count = usize::try_from(most.min(self.data_left)).unwrap_or_default();
        self.data_left -= count as u64;
        self.left -= count as u64;
        Ok(Some(self.held.split_to(count)))
    }

    /// Reads what stands behind the data: whether it was the last.
    pub(crate) async fn finish(mut self) -> Result<bool, Status> {
        while self.left > 0 {
            if self.field(None, INPUT_HEAD_BYTES_MAX).await? {
                return Err(invalid("it has its data twice"));
            }
        }
        Ok(self.eof)
    }

    /// Reads one field; says whether the data follows.
    async fn field(&mut self, head: Option<&mut Head>, max: u64) -> Result<bool, Status> {
        let tag = self.varint().await?;
        let (number, kind) = (tag >> 3, tag & 7);
        let numbers = self.numbers;
        let late = || invalid("its fields are not in the order of their numbers");
        match kind {
            0 => {
                let value = self.varint().await?;
                if number == numbers.eof {
                    self.eof = value != 0;
                } else if number == numbers.offset {
                    head.ok_or_else(late)?.offset = value;
                }
            }
            2 => {
                let length = self.varint().await?;
                if length > self.left {
                    return Err(invalid("a field is longer than it"));
                }
                if number == numbers.data {
                    self.data_left = length;
                    return Ok(true);
                }
                if length > max {
                    return Err(invalid("a field is too long"));
                }
                let mut text = Vec::new();
                for _ in 0..length {
                    text.push(self.byte().await?);
                }
                let text = String::from_utf8(text).map_err(|_| invalid("a text is not UTF-8"));
                if number == numbers.task_id {
                    head.ok_or_else(late)?.task_id = text?;
                } else if Some(number) == numbers.exec_id {
                    head.ok_or_else(late)?.exec_id = text?;
                }
            }
            _ => return Err(invalid("a field is of a kind that it does not have")),
        }
        Ok(false)
    }

    async fn varint(&mut self) -> Result<u64, Status> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte().await?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("a number is too long"))
    }

    async fn byte(&mut self) -> Result<u8, Status> {
        if self.left == 0 {
            return Err(invalid("it ends in the middle of a field"));
        }
        self.fill().await?;
        self.left -= 1;
        Ok(self.held.get_u8())
    }

    /// Waits until something is there.
    async fn fill(&mut self) -> Result<(), Status> {
        while self.held.is_empty() {
            let frame = self.body.frame().await;
            let frame = frame.ok_or_else(|| invalid("it is not complete"))?;
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.held = data;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost::Message;
    use wire::router::{SandboxStdinWriteV2Request, TaskExecStdinWriteRequest};

    use super::*;

    /// A message on its way in pieces.
    fn body(message: &impl Message, piece: usize) -> Body {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(message.encoded_len().try_into().unwrap());
        message.encode(&mut bytes).unwrap();
        let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    async fn read(body: Body, numbers: Numbers) -> Result<(Head, Vec<u8>, bool), Status> {
        let (head, mut incoming) = Incoming::begin(body, numbers).await?;
        let mut data = vec![];
        while let Some(piece) = incoming.data().await? {
            data.extend_from_slice(&piece);
        }
        Ok((head, data, incoming.finish().await?))
    }

    #[tokio::test]
    async fn what_is_encoded_is_read_in_any_pieces() {
        for (offset, length, eof) in [
            (0, 0, false),
            (0, 0, true),
            (7, 1, false),
            (u64::MAX, 300, true),
            (1 << 33, 70_000, true),
        ] {
            let data: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
            let request = TaskExecStdinWriteRequest {
                task_id: "ta-1".into(),
                exec_id: "e".into(),
                offset,
                data: data.clone().into(),
                eof,
            };
            for piece in [1, 3, 7, 1_000, 1 << 20] {
                let (head, read, last) = read(body(&request, piece), OF_EXEC).await.unwrap();
                let wanted = Head { task_id: "ta-1".into(), exec_id: "e".into(), offset };
                assert_eq!((head, last), (wanted, eof));
                assert!(read == data);
            }
        }
        let request = SandboxStdinWriteV2Request {
            task_id: "ta-2".into(),
            offset: 5,
            data: "text".into(),
            eof: true,
        };
        let (head, data, last) = read(body(&request, 2), OF_SANDBOX).await.unwrap();
        assert_eq!((head.task_id.as_str(), head.offset, last), ("ta-2", 5, true));
        assert_eq!(data, b"text");
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let check = async |bytes: &'static [u8]| {
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(bytes.len().try_into().unwrap());
            framed.put_slice(bytes);
            let whole = Body::new(http_body_util::Full::new(framed.freeze()));
            let status = read(whole, OF_EXEC).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        };
        check(&[0x22, 5, b'x']).await;
        check(&[0x0a, 2, 0xff, 0xff]).await;
        check(&[0x22, 1, b'x', 0x0a, 1, b't']).await;
        check(&[0x22, 1, b'x', 0x22, 1, b'y']).await;
        check(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).await;
        check(&[0x25, 0, 0, 0, 0]).await;
        let cut = Body::new(http_body_util::Full::new(Bytes::from_static(&[0, 0, 0, 0, 9, 0x22])));
        assert!(read(cut, OF_EXEC).await.is_err());
    }
}
