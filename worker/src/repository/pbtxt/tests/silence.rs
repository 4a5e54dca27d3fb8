//! No field of the configuration is passed over in silence: setting it changes what is understood, or is named.

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value,
};

use super::*;

/// Fields that change nothing, and are rightly not told.
const SILENT: [&str; 4] = [
    // Of use to whoever reads the file alone.
    "instance_group.name",
    // A caller's timeout always counts.
    "dynamic_batching.default_queue_policy.allow_timeout_override",
    // The user's own.
    "parameters.string_value",
    // Zero data is zero data, whether the switch is on or off.
    "model_warmup.inputs.zero_data",
];

/// One of everything that can be honoured, so that a field is set in a place that is otherwise right.
const BASE: &str = "input { name: 'x' data_type: TYPE_FP32 dims: 4 } \
    output { name: 'y' data_type: TYPE_FP32 dims: 4 } max_batch_size: 4 \
    instance_group { count: 1 gpus: 0 } dynamic_batching { default_queue_policy {} } \
    parameters { key: 'mine' value {} } version_policy { latest {} } \
    model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }";

/// The same of an ensemble, for which nothing may be silent.
const ENSEMBLE: &str = "platform: 'ensemble' max_batch_size: 4 \
    input { name: 'x' data_type: TYPE_FP32 dims: 4 } \
    output { name: 'y' data_type: TYPE_FP32 dims: 4 } version_policy { latest {} } \
    ensemble_scheduling { step { model_name: 'a' model_version: -1 \
    input_map { key: 'x' value: 'x' } output_map { key: 'y' value: 'y' } } }";

type Outcome = Result<
    (
        Overrides,
        Option<String>,
        Declared,
        Option<Ensemble>,
        Vec<Sample>,
        Vec<String>,
    ),
    String,
>;

fn outcome(message: &DynamicMessage) -> Outcome {
    let text = message.to_text_format();
    let said = read(&text, "minilm", &Model::default())?;
    Ok((
        said.overrides,
        said.model_file,
        said.declared,
        said.ensemble,
        said.warm_up,
        said.notes,
    ))
}

fn other(kind: &Kind, value: Option<&Value>) -> Value {
    match kind {
        Kind::Bool => Value::Bool(value != Some(&Value::Bool(true))),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(3),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(3),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(3),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(3),
        Kind::Float => Value::F32(0.5),
        Kind::Double => Value::F64(0.5),
        Kind::String => Value::String("other".to_owned()),
        Kind::Bytes => Value::Bytes(bytes::Bytes::from_static(b"other")),
        Kind::Enum(values) => {
            let last = values.values().map(|value| value.number()).max();
            Value::EnumNumber(last.unwrap_or_default())
        }
        Kind::Message(message) => Value::Message(DynamicMessage::new(message.clone())),
    }
}

/// Every message that is `message` but for one field, with the path of that field.
fn changed(message: &DynamicMessage, path: &str, depth: usize) -> Vec<(String, DynamicMessage)> {
    let mut all = Vec::new();
    for field in message.descriptor().fields() {
        let path = if path.is_empty() {
            field.name().to_owned()
        } else {
            format!("{path}.{}", field.name())
        };
        for value in values(message, &field, &path, depth) {
            let mut message = message.clone();
            message.set_field(&field, value.1);
            all.push((value.0, message));
        }
    }
    all
}

fn values(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    path: &str,
    depth: usize,
) -> Vec<(String, Value)> {
    let now = message.get_field(field);
    let inside = |inner: &DynamicMessage| changed(inner, path, depth + 1).into_iter();
    let fresh = |kind: &Kind| match kind {
        Kind::Message(message) => DynamicMessage::new(message.clone()),
        _ => unreachable!("only asked for messages"),
    };
    if field.is_map() {
        let (key, kind) = (MapKey::String("x".to_owned()), field.kind());
        let entry = kind
            .as_message()
            .expect("maps are lists of entries")
            .map_entry_value_field();
        let numbered = !matches!(
            kind.as_message()
                .expect("as above")
                .map_entry_key_field()
                .kind(),
            Kind::String
        );
        let key = if numbered { MapKey::U64(1) } else { key };
        let held = now.as_map().and_then(|map| map.values().next().cloned());
        let key = now
            .as_map()
            .and_then(|map| map.keys().next().cloned())
            .unwrap_or(key);
        let entries: Vec<(String, Value)> = match entry.kind() {
            Kind::Message(_) if depth < 8 => {
                let held = held.and_then(|value| value.as_message().cloned());
                let inner = held.unwrap_or_else(|| fresh(&entry.kind()));
                inside(&inner)
                    .map(|(path, inner)| (path, Value::Message(inner)))
                    .collect()
            }
            kind => vec![(path.to_owned(), other(&kind, None))],
        };
        let map = |value| Value::Map([(key.clone(), value)].into());
        return entries
            .into_iter()
            .map(|(path, value)| (path, map(value)))
            .collect();
    }
    let first = now.as_list().and_then(|list| list.first().cloned());
    let held = if field.is_list() {
        first
    } else {
        Some(now.into_owned())
    };
    let values: Vec<(String, Value)> = match field.kind() {
        Kind::Message(_) => {
            let held = held.and_then(|value| value.as_message().cloned());
            let inner = held.unwrap_or_else(|| fresh(&field.kind()));
            let inner: Vec<_> = inside(&inner).collect();
            if inner.is_empty() {
                vec![(path.to_owned(), other(&field.kind(), None))]
            } else {
                inner
                    .into_iter()
                    .map(|(path, inner)| (path, Value::Message(inner)))
                    .collect()
            }
        }
        kind => vec![(path.to_owned(), other(&kind, held.as_ref()))],
    };
    let wrap = |value| {
        if field.is_list() {
            Value::List(vec![value])
        } else {
            value
        }
    };
    values
        .into_iter()
        .map(|(path, value)| (path, wrap(value)))
        .collect()
}

#[test]
fn every_field_is_honoured_or_named() {
    let pool = DescriptorPool::decode(forebay_proto::MODEL_CONFIG_DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name("inference.ModelConfig").unwrap();
    for (base, silent) in [(BASE, &SILENT[..]), (ENSEMBLE, &[])] {
        let base = DynamicMessage::parse_text_format(descriptor.clone(), base).unwrap();
        let usual = outcome(&base);
        assert!(usual.is_ok(), "{usual:?}");
        let all = changed(&base, "", 0);
        assert!(all.len() > 120, "only {} fields", all.len());
        let unchanged = all.iter().filter(|(_, message)| outcome(message) == usual);
        let mut found: Vec<&str> = unchanged.map(|(path, _)| &path[..]).collect();
        found.dedup();
        found.sort_unstable();
        let mut expected = silent.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_understood_is_kept_as_it_stands() {
    let said = understood(WHOLE);
    assert_eq!(
        ModelConfig::decode(&said.message.encode_to_vec()[..]),
        Ok(said.message)
    );
}
