//! `[models.NAME]` with `steps`: an ensemble, several models and built-in steps that answer as one model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::dataflow::{Dataflow, FlowError, Ports};

/// Steps that are known to fit together: every tensor has one maker, and nothing is made in vain.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    /// What it says of its tensors; `flow` has all of them, and their order.
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
    /// One or more.
    pub steps: Vec<Step>,
    pub flow: Dataflow,
    /// Time a request may take when the client names none; None: unbounded.
    pub default_timeout: Option<Duration>,
    /// Bytes that kept answers may take; 0: no cache.
    pub response_cache_bytes: u64,
}

impl Ensemble {
    /// An ensemble that says no more than how its tensors flow. Empty `inputs` stand for every tensor that a
    /// step takes and none makes, empty `outputs` for every tensor that a step makes and none takes.
    ///
    /// # Errors
    /// The steps do not fit together.
    pub fn new(
        inputs: Vec<Declared>,
        outputs: Vec<Declared>,
        steps: Vec<Step>,
    ) -> Result<Self, Vec<FlowError>> {
        let names = |tensors: &[Declared]| -> Vec<String> {
            tensors.iter().map(|tensor| tensor.name.clone()).collect()
        };
        let ports: Vec<&Ports> = steps.iter().map(|step| &step.ports).collect();
        let flow = Dataflow::of(&names(&inputs), &names(&outputs), &ports)?;
        Ok(Self {
            inputs,
            outputs,
            steps,
            flow,
            default_timeout: None,
            response_cache_bytes: 0,
        })
    }

    /// The models that its steps name, as often as they do.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Model { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }
}

/// What an ensemble says of one of its inputs or outputs. What it leaves out, the steps say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub name: String,
    /// As the protocol names it, such as FP32.
    pub datatype: Option<String>,
    /// −1 where any size is accepted.
    pub shape: Option<Vec<i64>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub kind: StepKind,
    pub ports: Ports,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StepKind {
    /// A model of the repository, or another ensemble. `None`: the version that is served.
    Model {
        name: String,
        version: Option<u64>,
    },
    Tokenizer(Tokenizer),
    Detokenizer(Detokenizer),
    Pool(Pool),
    Image(Image),
    Labels(Labels),
}

/// What a built-in step takes and makes, by the names that are used in its `inputs` and `outputs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltIn {
    pub name: &'static str,
    /// Must be given.
    pub needs: &'static [&'static str],
    /// May be given.
    pub takes: &'static [&'static str],
    pub makes: &'static [&'static str],
}

impl StepKind {
    /// `None`: the ports are those of a model.
    pub fn built_in(&self) -> Option<BuiltIn> {
        let built_in = match self {
            Self::Model { .. } => return None,
            Self::Tokenizer(_) => BuiltIn {
                name: "tokenizer",
                needs: &["text"],
                takes: &["pair"],
                makes: &["input_ids", "attention_mask", "token_type_ids"],
            },
            Self::Detokenizer(_) => BuiltIn {
                name: "detokenizer",
                needs: &["ids"],
                takes: &[],
                makes: &["text"],
            },
            Self::Pool(Pool {
                method: PoolMethod::Cls,
                ..
            }) => BuiltIn {
                name: "pool",
                needs: &["tokens"],
                takes: &["attention_mask"],
                makes: &["embedding"],
            },
            Self::Pool(_) => BuiltIn {
                name: "pool",
                needs: &["tokens", "attention_mask"],
                takes: &[],
                makes: &["embedding"],
            },
            Self::Image(_) => BuiltIn {
                name: "image",
                needs: &["image"],
                takes: &[],
                makes: &["pixels"],
            },
            Self::Labels(_) => BuiltIn {
                name: "labels",
                needs: &["scores"],
                takes: &[],
                makes: &["labels", "scores", "indices"],
            },
        };
        Some(built_in)
    }
}

/// Text → token ids, by a `tokenizer.json` as Hugging Face's libraries write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// Absolute, or from the repository on.
    pub file: PathBuf,
    /// Tokens of one row at most, special ones included. None: what the file says, else 512.
    pub max_length: Option<u32>,
    pub pad_to: PadTo,
    /// Of what it makes.
    pub datatype: IdType,
    /// Put in those that the file says begin and end a text.
    pub special_tokens: bool,
}

/// How long the rows of one request become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PadTo {
    /// As long as the longest of them.
    Longest,
    MaxLength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    Int64,
    Int32,
}

/// Token ids → text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detokenizer {
    /// Absolute, or from the repository on.
    pub file: PathBuf,
    pub skip_special_tokens: bool,
}

/// A vector for each token → one vector for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub method: PoolMethod,
    /// Divide each vector by its length.
    pub normalize: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMethod {
    /// Of the tokens that the mask keeps.
    Mean,
    /// The first token.
    Cls,
    /// The largest value of each dimension among the tokens that the mask keeps.
    Max,
    /// The last token that the mask keeps.
    Last,
}

/// JPEG, PNG or WebP → numbers of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub height: u32,
    pub width: u32,
    pub resize: Resize,
    pub filter: Filter,
    pub channels: Channels,
    pub layout: Layout,
    pub values: Values,
    /// Width times height of a picture at most; a larger one is refused before it is decoded.
    pub max_pixels: u64,
}

impl Image {
    pub fn channel_count(&self) -> usize {
        match self.channels {
            Channels::Gray => 1,
            Channels::Rgb | Channels::Bgr => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// To the size, whatever becomes of the proportions.
    Stretch,
    /// In proportion until the shorter side is this long, then the middle is cut out. For sizes that are not
    /// square: until it covers the size, enlarged by this over its shorter side.
    Crop { shorter_side: u32 },
    /// In proportion until it fits in, in the middle of this value.
    Pad { fill: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    Rgb,
    Bgr,
    Gray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Nchw,
    Nhwc,
}

/// What becomes of the values 0 to 255.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// They stay: UINT8.
    Bytes,
    /// `(low + value / 255 · (high − low) − mean) / std`, mean and std for each channel.
    Float {
        half: bool,
        low: f32,
        high: f32,
        mean: Vec<f32>,
        std: Vec<f32>,
    },
}

/// Scores of classes → the best ones by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// A JSON array of strings, or text with one label a line. Absolute, or from the repository on.
    pub file: PathBuf,
    pub top: u32,
    /// Turn the scores into probabilities.
    pub softmax: bool,
}

/// Ensembles by name.
pub type Ensembles = BTreeMap<String, Ensemble>;
