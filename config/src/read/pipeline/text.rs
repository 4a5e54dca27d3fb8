//! Steps that are about text and vectors: `tokenizer`, `detokenizer`, `pool`, `labels`.

use std::path::PathBuf;

use crate::read::{Keys, Read, Table, Value};
use crate::worker::{Detokenizer, IdType, Labels, PadTo, Pool, PoolMethod, StepKind, Tokenizer};

const TOKENIZER_KEYS: Keys = &["file", "max_length", "pad_to", "datatype", "special_tokens"];
const DETOKENIZER_KEYS: Keys = &["file", "skip_special_tokens"];
const POOL_KEYS: Keys = &["method", "normalize"];
const LABELS_KEYS: Keys = &["file", "top", "softmax"];

const FILE: &str = "a path, absolute or from the repository on";
const PAD_TO: [(&str, PadTo); 2] = [
    ("longest", PadTo::Longest),
    ("max_length", PadTo::MaxLength),
];
const ID_TYPES: [(&str, IdType); 2] = [("INT64", IdType::Int64), ("INT32", IdType::Int32)];
const METHODS: [(&str, PoolMethod); 4] = [
    ("mean", PoolMethod::Mean),
    ("cls", PoolMethod::Cls),
    ("max", PoolMethod::Max),
    ("last", PoolMethod::Last),
];
/// Room for the special tokens and one of the text.
const SHORTEST: u32 = 4;
const LONGEST: u32 = 1 << 20;

pub(super) fn tokenizer(value: &Value<'_>) -> Read<StepKind> {
    let tokenizer = if value.is_table() {
        let table = value.table(TOKENIZER_KEYS)?;
        let file = file(&table);
        let max_length = table.optional("max_length", |value| value.integer(SHORTEST..=LONGEST));
        let pad_to = table.or("pad_to", PadTo::Longest, |value| value.choice(&PAD_TO));
        let datatype = table.or("datatype", IdType::Int64, |value| value.choice(&ID_TYPES));
        let special_tokens = table.or("special_tokens", true, |value| value.boolean());
        Tokenizer {
            file: file?,
            max_length: max_length?,
            pad_to: pad_to?,
            datatype: datatype?,
            special_tokens: special_tokens?,
        }
    } else {
        Tokenizer {
            file: path(value)?,
            max_length: None,
            pad_to: PadTo::Longest,
            datatype: IdType::Int64,
            special_tokens: true,
        }
    };
    Ok(StepKind::Tokenizer(tokenizer))
}

pub(super) fn detokenizer(value: &Value<'_>) -> Read<StepKind> {
    let detokenizer = if value.is_table() {
        let table = value.table(DETOKENIZER_KEYS)?;
        let file = file(&table);
        let skip = table.or("skip_special_tokens", true, |value| value.boolean());
        Detokenizer {
            file: file?,
            skip_special_tokens: skip?,
        }
    } else {
        Detokenizer {
            file: path(value)?,
            skip_special_tokens: true,
        }
    };
    Ok(StepKind::Detokenizer(detokenizer))
}

pub(super) fn pool(value: &Value<'_>) -> Read<StepKind> {
    let pool = if value.is_table() {
        let table = value.table(POOL_KEYS)?;
        let method = table.required("method", r#"how, such as "mean""#, |value| {
            value.choice(&METHODS)
        });
        let normalize = table.or("normalize", false, |value| value.boolean());
        Pool {
            method: method?,
            normalize: normalize?,
        }
    } else {
        Pool {
            method: value.choice(&METHODS)?,
            normalize: false,
        }
    };
    Ok(StepKind::Pool(pool))
}

pub(super) fn labels(value: &Value<'_>) -> Read<StepKind> {
    let labels = if value.is_table() {
        let table = value.table(LABELS_KEYS)?;
        let file = file(&table);
        let top = table.or("top", 1, |value| value.integer(1..=65_536));
        let softmax = table.or("softmax", false, |value| value.boolean());
        Labels {
            file: file?,
            top: top?,
            softmax: softmax?,
        }
    } else {
        Labels {
            file: path(value)?,
            top: 1,
            softmax: false,
        }
    };
    Ok(StepKind::Labels(labels))
}

fn file(table: &Table<'_>) -> Read<PathBuf> {
    table.required("file", FILE, |value| value.file())
}

/// The short form of a table that says only `file`.
fn path(value: &Value<'_>) -> Read<PathBuf> {
    match value.as_str() {
        Some(_) => value.file(),
        None => value.wrong(format!("{FILE}, or a table with the key file")),
    }
}
