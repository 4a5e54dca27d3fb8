//! Steps that turn pictures into numbers: `image`.

use crate::read::{Keys, Read, Table, Value, all};
use crate::worker::{Channels, Filter, Image, Layout, Resize, StepKind, Values};

const KEYS: Keys = &[
    "size",
    "resize",
    "shorter_side",
    "fill",
    "filter",
    "channels",
    "layout",
    "datatype",
    "range",
    "mean",
    "std",
    "max_pixels",
];

const LONGEST_SIDE: u32 = 16_384;
const MAX_PIXELS: u64 = 1 << 25;
const MOST_PIXELS: u64 = 1 << 30;

const RESIZES: [(&str, How); 3] = [
    ("stretch", How::Stretch),
    ("crop", How::Crop),
    ("pad", How::Pad),
];
const FILTERS: [(&str, Filter); 4] = [
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
    ("nearest", Filter::Nearest),
];
const CHANNELS: [(&str, Channels); 3] = [
    ("rgb", Channels::Rgb),
    ("bgr", Channels::Bgr),
    ("gray", Channels::Gray),
];
const LAYOUTS: [(&str, Layout); 2] = [("NCHW", Layout::Nchw), ("NHWC", Layout::Nhwc)];
const DATATYPES: [(&str, Number); 3] = [
    ("FP32", Number::Single),
    ("FP16", Number::Half),
    ("UINT8", Number::Byte),
];

#[derive(Clone, Copy, PartialEq)]
enum How {
    Stretch,
    Crop,
    Pad,
}

#[derive(Clone, Copy, PartialEq)]
enum Number {
    Single,
    Half,
    Byte,
}

pub(super) fn image(value: &Value<'_>) -> Read<StepKind> {
    let table = value.table(KEYS)?;
    let size = table.required("size", "height and width, such as [224, 224]", |value| {
        size(&value)
    });
    let resize = resize(&table, size.as_ref().ok().copied());
    let filter = table.or("filter", Filter::Bilinear, |value| value.choice(&FILTERS));
    let channels = table.or("channels", Channels::Rgb, |value| value.choice(&CHANNELS));
    let layout = table.or("layout", Layout::Nchw, |value| value.choice(&LAYOUTS));
    let values = values(&table, channels.as_ref().ok().copied());
    let max_pixels = table.or("max_pixels", MAX_PIXELS, |value| {
        value.integer(1..=MOST_PIXELS)
    });
    let [height, width] = size?;
    Ok(StepKind::Image(Image {
        height,
        width,
        resize: resize?,
        filter: filter?,
        channels: channels?,
        layout: layout?,
        values: values?,
        max_pixels: max_pixels?,
    }))
}

fn size(value: &Value<'_>) -> Read<[u32; 2]> {
    let sides = value.array("height and width, such as [224, 224]")?;
    let sides = all(sides.iter().map(|side| side.integer(1..=LONGEST_SIDE)))?;
    match sides[..] {
        [height, width] => Ok([height, width]),
        _ => value.wrong("height and width, such as [224, 224]"),
    }
}

fn resize(table: &Table<'_>, size: Option<[u32; 2]>) -> Read<Resize> {
    let how = table.or("resize", How::Stretch, |value| value.choice(&RESIZES));
    let least = size.map_or(1, |size| size[0].min(size[1]));
    let shorter_side = table.or("shorter_side", least, |value| {
        value.integer(least..=LONGEST_SIDE)
    });
    let fill = table.or("fill", 0, |value| value.integer(0..=255));
    let (how, shorter_side, fill) = (how?, shorter_side?, fill?);
    for (key, only, name) in [
        ("shorter_side", How::Crop, "crop"),
        ("fill", How::Pad, "pad"),
    ] {
        if let (Some(value), true) = (table.get(key), how != only) {
            return value.wrong(format!(r#"nothing, unless resize is "{name}""#));
        }
    }
    Ok(match how {
        How::Stretch => Resize::Stretch,
        How::Crop => Resize::Crop { shorter_side },
        How::Pad => Resize::Pad { fill },
    })
}

fn values(table: &Table<'_>, channels: Option<Channels>) -> Read<Values> {
    let count = match channels {
        Some(Channels::Gray) => 1,
        _ => 3,
    };
    let datatype = table.or("datatype", Number::Single, |value| value.choice(&DATATYPES));
    let range = table.or("range", [0.0, 1.0], |value| range(&value));
    let mean = table.or("mean", vec![0.0; count], |value| each(&value, count));
    let std = table.or("std", vec![1.0; count], |value| {
        let numbers = each(&value, count)?;
        match numbers.iter().all(|number| *number > 0.0) {
            true => Ok(numbers),
            false => value.wrong("numbers above 0"),
        }
    });
    let (datatype, [low, high], mean, std) = (datatype?, range?, mean?, std?);
    if datatype == Number::Byte {
        for key in ["range", "mean", "std"] {
            if let Some(value) = table.get(key) {
                return value.wrong("nothing, as the values of UINT8 stay as they are");
            }
        }
        return Ok(Values::Bytes);
    }
    Ok(Values::Float {
        half: datatype == Number::Half,
        low,
        high,
        mean,
        std,
    })
}

fn range(value: &Value<'_>) -> Read<[f32; 2]> {
    const EXPECTED: &str = "what 0 and 255 become, such as [0.0, 1.0]";
    let numbers = value.array(EXPECTED)?;
    let numbers = all(numbers.iter().map(|number| number.number()))?;
    match numbers[..] {
        [low, high] if low < high => Ok([low as f32, high as f32]),
        _ => value.wrong(EXPECTED),
    }
}

/// A number for each channel, or one for all of them.
fn each(value: &Value<'_>, channels: usize) -> Read<Vec<f32>> {
    let Some(items) = value.peek_items() else {
        return Ok(vec![value.number()? as f32; channels]);
    };
    let numbers = all(items.iter().map(|item| item.number()))?;
    if numbers.len() != channels {
        return value.wrong(format!(
            "{channels} numbers, one for each channel, or one for all"
        ));
    }
    Ok(numbers.into_iter().map(|number| number as f32).collect())
}
