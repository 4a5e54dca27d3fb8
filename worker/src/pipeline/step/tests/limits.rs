//! What is refused before the work: few bytes that stand for much more.

use std::time::{Duration, Instant};

use super::*;

fn pool(method: config::PoolMethod) -> Arc<dyn Transform> {
    Arc::new(pooling::Pooling::new(config::Pool {
        method,
        normalize: false,
    }))
}

fn detokenizer() -> Arc<dyn Transform> {
    let file = File::new(TOKENIZER);
    let kind = StepKind::Detokenizer(config::Detokenizer {
        file: file.0.clone(),
        skip_special_tokens: true,
    });
    make(&kind, Path::new("/")).unwrap().unwrap()
}

static DETOKENIZER: LazyLock<Arc<dyn Transform>> = LazyLock::new(detokenizer);

/// As an ensemble does it.
fn take(step: &dyn Transform, input: Input, wanted: &[&str]) -> Result<Vec<Tensor>, StepError> {
    let (inputs, ports) = ([input], ports(wanted));
    check(step, &inputs, &ports)?;
    step.run(&inputs, &ports)
}

#[test]
fn small_pictures_that_become_too_much_are_refused() {
    let picture = encoded(RgbImage::new(1, 1), ImageFormat::Png);
    let large = config::Image {
        height: 224,
        width: 224,
        values: config::Values::Float {
            half: false,
            low: 0.0,
            high: 1.0,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        },
        ..settings(config::Resize::Stretch)
    };
    let step = image::Image::new(large);
    let pictures = strings("image", &vec![&picture[..]; 32_768]);
    assert_eq!(
        take(&step, pictures, &["pixels"]).unwrap_err().to_string(),
        "32768 rows become 602112 bytes each, a step makes 268435456 bytes at most"
    );
    let few = strings("image", &[&picture[..]; 3]);
    assert_eq!(take(&step, few, &["pixels"]).unwrap()[0].shape[0], 3);
}

#[test]
fn one_long_text_among_empty_ones_is_refused() {
    let long = "cat ".repeat(4_000);
    let mut rows = vec![b"".as_slice(); bounds::MAX_ROWS];
    rows[0] = long.as_bytes();
    let wanted = ["input_ids", "attention_mask"];
    let step = tokenizer(4_000, config::PadTo::Longest);
    let refused = take(&*step, strings("text", &rows), &wanted).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "65536 rows become 64000 bytes each, a step makes 268435456 bytes at most"
    );
    let step = tokenizer(4_000, config::PadTo::MaxLength);
    let fixed = take(&*step, strings("text", &rows), &wanted).unwrap_err();
    assert_eq!(fixed, refused);
    rows.push(b"");
    let step = tokenizer(8, config::PadTo::Longest);
    let refused = take(&*step, strings("text", &rows), &wanted).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "'texts': 65537 rows, a step takes 65536 at most"
    );
}

#[test]
fn shapes_without_elements_cost_nothing() {
    use config::PoolMethod::{Cls, Max};
    let since = Instant::now();
    for length in [1i64 << 20, 1 << 31, 1 << 40, i64::MAX] {
        let tokens = floats("tokens", &[1, length, 0], &[]);
        for method in [Cls, Max] {
            assert!(take(&*pool(method), tokens.clone(), &["embedding"]).is_err());
        }
        let ids = integers("ids", &[length, 0], &[]);
        assert!(take(&*detokenizer(), ids, &["text"]).is_err());
    }
    let ids = integers("ids", &[2, 0], &[]);
    assert_eq!(take(&*detokenizer(), ids, &["text"]).unwrap()[0].shape, [2]);
    let tokens = floats("tokens", &[2, 0, 3], &[]);
    assert_eq!(
        numbers(&take(&*pool(Cls), tokens, &["embedding"]).unwrap()[0]),
        [0.0; 6]
    );
    assert!(since.elapsed() < Duration::from_secs(10));
}

fn size() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(1), 0i64..5, 1i64 << 15..1 << 18, any::<i64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_shape_upsets_a_step(shape in prop::collection::vec(size(), 0..4), rows in 0usize..4) {
        let elements = element_count(&shape).ok().filter(|count| *count <= 1000);
        let count = elements.unwrap_or(0) as usize;
        let steps: [(Arc<dyn Transform>, Input, &str); 4] = [
            (pool(config::PoolMethod::Cls), floats("tokens", &shape, &vec![1.0; count]), "embedding"),
            (Arc::clone(&DETOKENIZER), integers("ids", &shape, &vec![4; count]), "text"),
            (Arc::clone(&SHORT), strings("text", &vec![b"a".as_slice(); rows]), "input_ids"),
            (Arc::new(image::Image::new(settings(config::Resize::Stretch))), strings("image", &vec![b"x".as_slice(); rows]), "pixels"),
        ];
        for (step, mut input, port) in steps {
            input.tensor.shape.clone_from(&shape);
            for made in take(&*step, input, &[port]).into_iter().flatten() {
                prop_assert!(made.data.len() <= bounds::MAX_BYTES);
            }
        }
    }
}
