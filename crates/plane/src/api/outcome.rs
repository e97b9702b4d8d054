//! Results and payloads: from the wire to the model and back.

use bytes::Bytes;
use model::BlobId;
use model::output::{Outcome, Payload, Status};
use store::inputs::Carried;
use store::outcomes::{status, status_number};
use wire::client as pb;

use super::refusal::Refusal;

/// What an input carries.
pub(super) fn carried(input: pb::FunctionInput) -> Result<Carried, Refusal> {
    let data_format = input.data_format;
    let args = match input.args_oneof {
        Some(pb::function_input::ArgsOneof::Args(bytes)) => Payload::Inline(bytes),
        Some(pb::function_input::ArgsOneof::ArgsBlobId(id)) => Payload::Blob(BlobId::parse(&id)?),
        None => Payload::empty(),
    };
    Ok(Carried { args, data_format, method_name: input.method_name.unwrap_or_default() })
}

/// What an input carries, as its container gets it.
pub(super) fn function_input(carried: Carried) -> pb::FunctionInput {
    let args = match carried.args {
        Payload::Inline(bytes) => pb::function_input::ArgsOneof::Args(bytes),
        Payload::Blob(id) => pb::function_input::ArgsOneof::ArgsBlobId(id.into()),
    };
    pb::FunctionInput {
        args_oneof: Some(args),
        final_input: false,
        data_format: carried.data_format,
        method_name: Some(carried.method_name).filter(|name| !name.is_empty()),
    }
}

/// A container's answer.
pub(super) fn outcome(
    result: Option<pb::GenericResult>,
    data_format: i32,
) -> Result<Outcome, Refusal> {
    let result = result
        .ok_or_else(|| Refusal::invalid("outputs.result", "it is missing: send one per output"))?;
    let status = status(result.status).map_err(|_| {
        Refusal::invalid("outputs.result.status", format!("{} is no status", result.status))
    })?;
    let data = match result.data_oneof {
        Some(pb::generic_result::DataOneof::Data(bytes)) => Some(Payload::Inline(bytes)),
        Some(pb::generic_result::DataOneof::DataBlobId(id)) => {
            Some(Payload::Blob(BlobId::parse(&id)?))
        }
        None => None,
    };
    Ok(Outcome {
        status,
        data,
        data_format,
        exception: result.exception,
        traceback: result.traceback,
        serialized_tb: result.serialized_tb,
        tb_line_cache: result.tb_line_cache,
    })
}

/// Whether a caller reads this format without unpickling.
pub(super) fn is_pickle_free(data_format: i32) -> bool {
    data_format == pb::DataFormat::Cbor as i32
        || data_format == pb::DataFormat::GeneratorDone as i32
}

/// What the caller of a function with restricted output gets of an outcome: nothing that it would
/// unpickle, whatever the container calls it. A client unpickles a failure's data also where no
/// format is named (modal 1.6.4) or whichever is (older ones), and its traceback; the text of the
/// exception stays.
pub(super) fn without_pickles(mut outcome: Outcome) -> Outcome {
    if outcome.status == Status::Success {
        if !is_pickle_free(outcome.data_format) {
            let text = "the function may not return pickles (restricted output), but it did";
            return Outcome::without_data(Status::Failure, text);
        }
    } else {
        outcome.data = None;
    }
    outcome.serialized_tb = Bytes::new();
    outcome.tb_line_cache = Bytes::new();
    outcome
}

/// An outcome as its caller gets it.
pub(super) fn generic_result(outcome: Outcome) -> pb::GenericResult {
    let data = outcome.data.map(|data| match data {
        Payload::Inline(bytes) => pb::generic_result::DataOneof::Data(bytes),
        Payload::Blob(id) => pb::generic_result::DataOneof::DataBlobId(id.into()),
    });
    pb::GenericResult {
        status: status_number(outcome.status),
        exception: outcome.exception,
        traceback: outcome.traceback,
        data_oneof: data,
        serialized_tb: outcome.serialized_tb,
        tb_line_cache: outcome.tb_line_cache,
        ..pb::GenericResult::default()
    }
}

/// Bytes that an outcome holds in its message.
pub(super) fn inline_bytes(outcome: &Outcome) -> usize {
    let data = match &outcome.data {
        Some(Payload::Inline(bytes)) => bytes.len(),
        Some(Payload::Blob(_)) | None => 0,
    };
    data + outcome.serialized_tb.len() + outcome.tb_line_cache.len() + outcome.traceback.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Status, data_format: i32) -> Outcome {
        Outcome {
            status,
            data: Some(Payload::Inline(Bytes::from_static(b"bytes"))),
            data_format,
            exception: "ValueError('negative')".into(),
            traceback: "where".into(),
            serialized_tb: Bytes::from_static(b"pickle"),
            tb_line_cache: Bytes::from_static(b"pickle"),
        }
    }

    #[test]
    fn restricted_output_brings_no_pickle_whatever_it_is_called() {
        for data_format in -1..10 {
            for status in [Status::Failure, Status::InitFailure, Status::Terminated] {
                let kept = without_pickles(outcome(status, data_format));
                assert_eq!((kept.status, &kept.data), (status, &None));
                assert_eq!(kept.exception, "ValueError('negative')");
                assert!(kept.serialized_tb.is_empty() && kept.tb_line_cache.is_empty());
            }
            let kept = without_pickles(outcome(Status::Success, data_format));
            assert!(kept.serialized_tb.is_empty() && kept.tb_line_cache.is_empty());
            let harmless = [pb::DataFormat::Cbor as i32, pb::DataFormat::GeneratorDone as i32];
            let want =
                if harmless.contains(&data_format) { Status::Success } else { Status::Failure };
            assert_eq!((kept.status, kept.data.is_some()), (want, want == Status::Success));
        }
    }
}
