//! The built-in steps by themselves: what they make, and that nothing that they are given upsets them.

mod limits;

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::LazyLock;

use ::image::{DynamicImage, ImageFormat, RgbImage};
use forebay_config::worker as config;
use forebay_proto::tensor::{DataType, bytes_elements, element_count};
use proptest::prelude::*;

use super::*;

const TOKENIZER: &str = r###"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [
        {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "cat": 5, "sat": 6, "##s": 7}}}"###;

/// A file with this content, removed in the end.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("forebay-step-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn tokenizer(max_length: u32, pad_to: config::PadTo) -> Arc<dyn Transform> {
    let file = File::new(TOKENIZER);
    let kind = StepKind::Tokenizer(config::Tokenizer {
        file: file.0.clone(),
        max_length: Some(max_length),
        pad_to,
        datatype: config::IdType::Int64,
        special_tokens: true,
    });
    make(&kind, Path::new("/")).unwrap().unwrap()
}

/// For tests of many cases: reading its file takes far longer than using it.
static SHORT: LazyLock<Arc<dyn Transform>> = LazyLock::new(|| tokenizer(8, config::PadTo::Longest));

fn given(port: &str, tensor: Tensor) -> Input {
    Input {
        port: port.to_owned(),
        name: format!("{port}s"),
        tensor,
        first_row: 0,
    }
}

fn strings(port: &str, rows: &[&[u8]]) -> Input {
    let tensor = super::strings::tensor(vec![rows.len() as i64], rows.iter().copied());
    given(port, tensor.unwrap())
}

fn floats(port: &str, shape: &[i64], values: &[f32]) -> Input {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    given(
        port,
        Tensor {
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: data.into(),
        },
    )
}

fn integers(port: &str, shape: &[i64], values: &[i64]) -> Input {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    given(
        port,
        Tensor {
            datatype: DataType::Int64,
            shape: shape.to_vec(),
            data: data.into(),
        },
    )
}

fn ports(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let (numbers, _) = tensor.data.as_chunks();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn ids(tensor: &Tensor) -> Vec<i64> {
    let (ids, _) = tensor.data.as_chunks();
    ids.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

#[test]
fn texts_become_ids_padded_to_the_longest() {
    let step = tokenizer(6, config::PadTo::Longest);
    let input = strings("text", &[b"A cat sat", b"cats", b"", b"a a a a a a a a"]);
    let made = step
        .run(&[input], &ports(&["input_ids", "attention_mask"]))
        .unwrap();
    assert_eq!(made[0].shape, [4, 6]);
    let rows = [
        [2, 4, 5, 6, 3, 0],
        [2, 5, 7, 3, 0, 0],
        [2, 3, 0, 0, 0, 0],
        [2, 4, 4, 4, 4, 3],
    ];
    assert_eq!(ids(&made[0]), rows.concat());
    let kept = rows
        .concat()
        .iter()
        .map(|id| i64::from(*id != 0))
        .collect::<Vec<_>>();
    assert_eq!(ids(&made[1]), kept);
    let fixed = tokenizer(6, config::PadTo::MaxLength);
    let made = fixed
        .run(&[strings("text", &[b"a"])], &ports(&["input_ids"]))
        .unwrap();
    assert_eq!(ids(&made[0]), [2, 4, 3, 0, 0, 0]);
}

#[test]
fn pairs_become_one_row_of_two_types() {
    let step = tokenizer(16, config::PadTo::Longest);
    let inputs = [strings("text", &[b"a cat"]), strings("pair", &[b"sat"])];
    let made = step
        .run(&inputs, &ports(&["input_ids", "token_type_ids"]))
        .unwrap();
    assert_eq!(ids(&made[0]), [2, 4, 5, 3, 6, 3]);
    assert_eq!(ids(&made[1]), [0, 0, 0, 0, 1, 1]);
    let uneven = [strings("text", &[b"a", b"b"]), strings("pair", &[b"sat"])];
    let refused = step.run(&uneven, &ports(&["input_ids"])).unwrap_err();
    assert_eq!(refused.to_string(), "'pairs': 1 rows for 2 texts");
}

#[test]
fn a_long_text_has_the_tokens_of_its_beginning() {
    let step = tokenizer(8, config::PadTo::Longest);
    let long = "cat sat ".repeat(1 << 20);
    let made = step
        .run(
            &[strings("text", &[long.as_bytes()])],
            &ports(&["input_ids"]),
        )
        .unwrap();
    assert_eq!(ids(&made[0]), [2, 5, 6, 5, 6, 5, 6, 3]);
    // Blanks make no tokens: the words behind them are found all the same.
    let late = format!("{}cat", " ".repeat(10_000));
    let made = step
        .run(
            &[strings("text", &[late.as_bytes()])],
            &ports(&["input_ids"]),
        )
        .unwrap();
    assert_eq!(ids(&made[0]), [2, 5, 3]);
}

#[test]
fn what_is_no_text_is_refused_with_its_row() {
    let step = tokenizer(8, config::PadTo::Longest);
    let refused = |input: Input| step.run(&[input], &ports(&["input_ids"])).unwrap_err();
    assert_eq!(
        refused(strings("text", &[b"a", b"ab\xff"])),
        StepError::Invalid("'texts': row 1 is no UTF-8 text (at byte 2)".to_owned())
    );
    assert_eq!(
        refused(strings("text", &[])),
        StepError::Invalid("'texts': there are no rows".to_owned())
    );
    let mut wide = strings("text", &[b"a", b"b"]);
    wide.tensor.shape = vec![1, 2];
    assert!(matches!(refused(wide), StepError::Invalid(_)));
}

#[test]
fn ids_become_text() {
    let file = File::new(TOKENIZER);
    let kind = StepKind::Detokenizer(config::Detokenizer {
        file: file.0.clone(),
        skip_special_tokens: true,
    });
    let step = make(&kind, Path::new("/")).unwrap().unwrap();
    let rows = [2, 4, 5, 7, 3, 0, 2, 6, 3, 0, 0, 0];
    let made = step
        .run(&[integers("ids", &[2, 6], &rows)], &ports(&["text"]))
        .unwrap();
    let texts: Vec<&[u8]> = bytes_elements(&made[0].data).map(Result::unwrap).collect();
    assert_eq!(texts, [b"a cats".as_slice(), b"sat"]);
    let refused = step
        .run(&[integers("ids", &[1, 1], &[-100])], &ports(&["text"]))
        .unwrap_err();
    assert_eq!(refused.to_string(), "'idss': -100 is no token id");
}

#[test]
fn a_tokenizer_that_cannot_be_read_is_told() {
    for content in ["", "{}", "{\"model\": 7}"] {
        let file = File::new(content);
        let kind = StepKind::Detokenizer(config::Detokenizer {
            file: file.0.clone(),
            skip_special_tokens: true,
        });
        let error = make(&kind, Path::new("/")).err().unwrap();
        assert!(error.starts_with("cannot read the tokenizer '"), "{error}");
    }
}

#[test]
fn vectors_of_tokens_become_one() {
    use config::PoolMethod::{Cls, Last, Max, Mean};
    let tokens = floats(
        "tokens",
        &[2, 2, 2],
        &[1.0, -4.0, 3.0, 0.0, 9.0, 9.0, 9.0, 9.0],
    );
    let mask = integers("attention_mask", &[2, 2], &[1, 1, 0, 0]);
    for (method, normalize, expected) in [
        (Mean, false, [2.0, -2.0, 0.0, 0.0]),
        (Mean, true, [0.5f32.sqrt(), -0.5f32.sqrt(), 0.0, 0.0]),
        (Max, false, [3.0, 0.0, 0.0, 0.0]),
        (Last, false, [3.0, 0.0, 0.0, 0.0]),
        (Cls, false, [1.0, -4.0, 9.0, 9.0]),
    ] {
        let step = pooling::Pooling::new(config::Pool { method, normalize });
        let mut inputs = vec![tokens.clone()];
        if method != Cls {
            inputs.push(mask.clone());
        }
        let made = step.run(&inputs, &ports(&["embedding"])).unwrap();
        assert_eq!(made[0].shape, [2, 2]);
        for (found, expected) in numbers(&made[0]).into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-6,
                "{method:?}: {found}, not {expected}"
            );
        }
    }
}

#[test]
fn scores_become_the_names_of_the_best() {
    for content in ["cat\ndog\nspoon\n", r#"["cat", "dog", "spoon"]"#] {
        let file = File::new(content);
        let kind = StepKind::Labels(config::Labels {
            file: file.0.clone(),
            top: 2,
            softmax: true,
        });
        let step = make(&kind, Path::new("/")).unwrap().unwrap();
        let rows = [0.0, 1000.0, 999.0, f32::NAN, 1.0, 1.0];
        let made = step
            .run(
                &[floats("scores", &[2, 3], &rows)],
                &ports(&["labels", "indices", "scores"]),
            )
            .unwrap();
        let labels: Vec<&[u8]> = bytes_elements(&made[0].data).map(Result::unwrap).collect();
        assert_eq!(labels[..2], [b"dog".as_slice(), b"spoon"]);
        assert_eq!(ids(&made[1])[..2], [1, 2]);
        let share = 1.0 / (1.0 + (-1.0f32).exp());
        assert!((numbers(&made[2])[0] - share).abs() < 1e-6);
        let uneven = step.run(
            &[floats("scores", &[1, 2], &[0.0, 1.0])],
            &ports(&["labels"]),
        );
        assert_eq!(
            uneven.unwrap_err(),
            StepError::Failed("'scoress' has 2 classes for 3 labels".to_owned())
        );
    }
}

fn settings(resize: config::Resize) -> config::Image {
    config::Image {
        height: 2,
        width: 4,
        resize,
        filter: config::Filter::Bilinear,
        channels: config::Channels::Rgb,
        layout: config::Layout::Nhwc,
        values: config::Values::Bytes,
        max_pixels: 1 << 16,
    }
}

fn encoded(picture: RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::from(picture)
        .write_to(&mut file, format)
        .unwrap();
    file.into_inner()
}

fn pixels(settings: config::Image, picture: &[u8]) -> Result<Tensor, StepError> {
    let step = image::Image::new(settings);
    let made = step.run(&[strings("image", &[picture])], &ports(&["pixels"]));
    made.map(|mut made| made.remove(0))
}

#[test]
fn pictures_become_numbers_in_the_order_that_is_asked_for() {
    let picture = RgbImage::from_fn(4, 2, |x, y| ::image::Rgb([x as u8, y as u8, 100]));
    let picture = encoded(picture, ImageFormat::Png);
    let plain = settings(config::Resize::Stretch);
    let made = pixels(plain.clone(), &picture).unwrap();
    assert_eq!(
        (made.datatype, &made.shape[..]),
        (DataType::Uint8, &[1, 2, 4, 3][..])
    );
    assert_eq!(made.data[..6], [0, 0, 100, 1, 0, 100]);
    let turned = config::Image {
        channels: config::Channels::Bgr,
        layout: config::Layout::Nchw,
        values: config::Values::Float {
            half: false,
            low: -1.0,
            high: 1.0,
            mean: vec![0.5; 3],
            std: vec![2.0; 3],
        },
        ..plain.clone()
    };
    let made = pixels(turned, &picture).unwrap();
    assert_eq!(made.shape, [1, 3, 2, 4]);
    let expected = |value: f32| (value / 255.0 * 2.0 - 1.5) / 2.0;
    let found = numbers(&made);
    assert!(
        (found[0] - expected(100.0)).abs() < 1e-6,
        "blue comes first"
    );
    assert!(
        (found[17] - expected(1.0)).abs() < 1e-6,
        "then green, then red"
    );
    let gray = config::Image {
        channels: config::Channels::Gray,
        ..plain
    };
    let made = pixels(gray, &picture).unwrap();
    assert_eq!((made.shape[3], made.data[0]), (1, 11), "0.114 times 100");
}

#[test]
fn pictures_are_cut_and_filled_up_in_proportion() {
    let white = RgbImage::from_pixel(2, 2, ::image::Rgb([255; 3]));
    let white = encoded(white, ImageFormat::Png);
    let made = pixels(settings(config::Resize::Pad { fill: 7 }), &white).unwrap();
    let row = [[7; 3], [255; 3], [255; 3], [7; 3]].concat();
    assert_eq!(made.data[..], [row.clone(), row].concat());
    let stripes = RgbImage::from_fn(8, 8, |_, y| ::image::Rgb([y as u8; 3]));
    let stripes = encoded(stripes, ImageFormat::Png);
    let cut = settings(config::Resize::Crop { shorter_side: 4 });
    let made = pixels(cut, &stripes).unwrap();
    assert_eq!(made.data[0], 3, "rows 3 and 4 are the middle");
}

#[test]
fn pictures_beyond_the_limit_are_refused_before_they_are_decoded() {
    let picture = encoded(RgbImage::new(300, 300), ImageFormat::Png);
    let refused = pixels(settings(config::Resize::Stretch), &picture).unwrap_err();
    let expected = "'images': picture 0: it has 300 times 300 pixels, 65536 altogether are allowed";
    assert_eq!(refused.to_string(), expected);
    // Enlarging one column of pixels to cover four would make it endless.
    let narrow = encoded(RgbImage::new(1, 60_000), ImageFormat::Png);
    let refused = pixels(settings(config::Resize::Crop { shorter_side: 2 }), &narrow).unwrap_err();
    assert!(refused.to_string().contains("too unequal"), "{refused}");
}

#[test]
fn rows_are_split_into_groups_and_none_is_lost() {
    let rows: Vec<Vec<u8>> = (0..7u8).map(|row| vec![row; usize::from(row)]).collect();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let tensor = strings("image", &rows).tensor;
    for parts in 1..10 {
        let groups = split_rows(&tensor, parts, 3);
        assert!(groups.iter().all(|group| group.shape[0] <= 3));
        assert!(groups.len() <= parts.max(3));
        let data: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.data.to_vec())
            .collect();
        assert_eq!(data, tensor.data);
        assert_eq!(groups.iter().map(|group| group.shape[0]).sum::<i64>(), 7);
    }
}

fn holds_together(made: Result<Vec<Tensor>, StepError>) {
    for tensor in made.into_iter().flatten() {
        let elements = element_count(&tensor.shape).unwrap();
        let size = tensor.datatype.size().unwrap() as u64;
        assert_eq!(tensor.data.len() as u64, elements * size);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_upset_the_tokenizer(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4)) {
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        holds_together(SHORT.run(&[strings("text", &rows)], &ports(&["input_ids", "attention_mask"])));
    }

    #[test]
    fn no_text_upsets_the_tokenizer(rows in prop::collection::vec(".{0,80}", 1..4)) {
        let rows: Vec<&[u8]> = rows.iter().map(String::as_bytes).collect();
        let made = SHORT.run(&[strings("text", &rows)], &ports(&["input_ids"])).unwrap();
        prop_assert_eq!(made[0].shape[0], rows.len() as i64);
        prop_assert!(made[0].shape[1] <= 8);
    }

    #[test]
    fn no_damage_to_a_picture_upsets_the_decoder(
        format in prop::sample::select(vec![ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP]),
        cut in 0usize..2000,
        changes in prop::collection::vec((0usize..2000, any::<u8>()), 0..8),
        resize in prop::sample::select(vec![
            config::Resize::Stretch,
            config::Resize::Crop { shorter_side: 3 },
            config::Resize::Pad { fill: 1 },
        ]),
    ) {
        let picture = RgbImage::from_fn(13, 9, |x, y| ::image::Rgb([x as u8 * 19, y as u8 * 28, 77]));
        let mut file = encoded(picture, format);
        for (at, value) in changes {
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
        }
        file.truncate(cut.max(12));
        holds_together(pixels(settings(resize), &file).map(|made| vec![made]));
    }
}
