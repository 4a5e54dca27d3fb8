//! `image`: JPEG, PNG or WebP → numbers of one size.
//!
//! How large a picture becomes is known from its head, and refused before a pixel is decoded. Resizing
//! weighs in neighbours as Pillow does; gray is ITU-R 601, as Pillow's too. Orientation tags are not followed.

use std::io::Cursor;

use forebay_config::worker::{Channels, Filter, Image as Config, Layout, Resize, Values};
use forebay_proto::tensor::DataType;
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{Input, StepError, Transform, bounds, strings, unknown_port};
use crate::inference::Tensor;
use crate::pipeline::plan::{Expected, Given, Made, Typed};

/// What decoding may allocate for each pixel: 16 bits for each of four channels, and as much again.
const BYTES_PER_PIXEL: u64 = 16;

type Buffer<P> = ImageBuffer<P, Vec<u8>>;

pub struct Image {
    config: Config,
    /// The number that each of the values 0 to 255 becomes, little endian, for each channel.
    table: Vec<Vec<[u8; 4]>>,
    width: usize,
}

impl Image {
    pub fn new(config: Config) -> Self {
        let (table, width) = table(&config);
        Self {
            config,
            table,
            width,
        }
    }

    fn shape(&self, rows: i64) -> Vec<i64> {
        let channels = self.config.channel_count() as i64;
        let (height, width) = (i64::from(self.config.height), i64::from(self.config.width));
        match self.config.layout {
            Layout::Nchw => vec![rows, channels, height, width],
            Layout::Nhwc => vec![rows, height, width, channels],
        }
    }

    /// What one picture becomes.
    fn row_bytes(&self) -> usize {
        let sides = [self.config.height, self.config.width].map(|side| side as usize);
        let sizes = [self.config.channel_count(), self.width, sides[0], sides[1]];
        sizes.into_iter().fold(1, usize::saturating_mul)
    }

    fn datatype(&self) -> DataType {
        match self.config.values {
            Values::Bytes => DataType::Uint8,
            Values::Float { half: true, .. } => DataType::Fp16,
            Values::Float { half: false, .. } => DataType::Fp32,
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<DynamicImage, String> {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|error| error.to_string())?;
        let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];
        if !reader
            .format()
            .is_some_and(|format| known.contains(&format))
        {
            return Err("no JPEG, PNG or WebP".to_owned());
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.config.max_pixels.saturating_mul(BYTES_PER_PIXEL));
        reader.limits(limits);
        let broken = |error: image::ImageError| format!("cannot be decoded: {error}");
        let decoder = reader.into_decoder().map_err(broken)?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 || pixels > self.config.max_pixels {
            return Err(format!(
                "it has {width} times {height} pixels, {} altogether are allowed",
                self.config.max_pixels
            ));
        }
        DynamicImage::from_decoder(decoder).map_err(broken)
    }

    /// One value a channel, in the order of rows, columns and channels red, green, blue.
    fn pixels(&self, picture: DynamicImage) -> Result<Vec<u8>, String> {
        let from = [picture.height(), picture.width()];
        let [tall, wide] = self.target(from).map(u64::from);
        // Resizing goes over the columns first, and so passes through the old width and the new height.
        let most = self.config.max_pixels;
        if u64::from(from[1]) * tall > most || tall * wide > most {
            let [tall, wide] = from;
            return Err(format!(
                "{wide} times {tall} pixels are too unequal to be resized"
            ));
        }
        let rgb = picture.into_rgb8();
        Ok(match self.config.channels {
            Channels::Rgb | Channels::Bgr => self.resized(rgb).into_raw(),
            Channels::Gray => {
                let (width, height) = rgb.dimensions();
                let gray = rgb.pixels().map(|pixel| luma(pixel.0)).collect();
                let gray = GrayImage::from_raw(width, height, gray).unwrap_or_default();
                self.resized(gray).into_raw()
            }
        })
    }

    /// Height and width to resize to, before cutting or filling up.
    fn target(&self, from: [u32; 2]) -> [u32; 2] {
        let size = [self.config.height, self.config.width];
        match self.config.resize {
            Resize::Stretch => size,
            Resize::Crop { shorter_side } => covering(from, size, shorter_side),
            Resize::Pad { .. } => fitting(from, size),
        }
    }

    fn resized<P>(&self, picture: Buffer<P>) -> Buffer<P>
    where
        P: image::Pixel<Subpixel = u8> + 'static,
    {
        let (height, width) = (self.config.height, self.config.width);
        let [tall, wide] = self.target([picture.height(), picture.width()]);
        let resized = match picture.dimensions() == (wide, tall) {
            true => picture,
            false => imageops::resize(&picture, wide, tall, filter(self.config.filter)),
        };
        match self.config.resize {
            Resize::Stretch => resized,
            Resize::Crop { .. } => {
                let (left, top) = (half(wide - width), half(tall - height));
                imageops::crop_imm(&resized, left, top, width, height).to_image()
            }
            Resize::Pad { fill } => {
                let ground = *P::from_slice(&[fill; 4][..usize::from(P::CHANNEL_COUNT)]);
                let mut whole = ImageBuffer::from_pixel(width, height, ground);
                let (left, top) = ((width - wide) / 2, (height - tall) / 2);
                imageops::replace(&mut whole, &resized, i64::from(left), i64::from(top));
                whole
            }
        }
    }

    /// Appends the numbers of one picture.
    fn write(&self, pixels: &[u8], data: &mut Vec<u8>) {
        let channels = self.config.channel_count();
        let source = |channel: usize| match self.config.channels {
            Channels::Bgr => channels - 1 - channel,
            Channels::Rgb | Channels::Gray => channel,
        };
        let number =
            |channel: usize, value: u8| &self.table[channel][usize::from(value)][..self.width];
        match self.config.layout {
            Layout::Nchw => {
                for channel in 0..channels {
                    let from = source(channel);
                    for pixel in pixels.chunks_exact(channels) {
                        data.extend_from_slice(number(channel, pixel[from]));
                    }
                }
            }
            Layout::Nhwc => {
                for pixel in pixels.chunks_exact(channels) {
                    for channel in 0..channels {
                        data.extend_from_slice(number(channel, pixel[source(channel)]));
                    }
                }
            }
        }
    }
}

impl Typed for Image {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        match port {
            "image" => Ok(Expected {
                datatypes: vec![DataType::Bytes],
                shape: None,
                usual: Some(vec![-1]),
                optional: false,
            }),
            _ => Err(unknown_port(port)),
        }
    }

    fn makes(&self, _: &str, _: &Given<'_>) -> Result<Made, String> {
        Ok(Made {
            datatype: self.datatype(),
            shape: Some(self.shape(-1)),
        })
    }

    fn needs(&self) -> Vec<&str> {
        vec!["image"]
    }

    fn batched(&self) -> bool {
        true
    }
}

impl Transform for Image {
    fn check(&self, inputs: &[Input], _: &[String]) -> Result<(), StepError> {
        let rows = super::row_count(super::needed(inputs, "image")?);
        bounds::bytes(rows, self.row_bytes()).map(drop)
    }

    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError> {
        let input = super::needed(inputs, "image")?;
        let pictures = strings::rows(input)?;
        let mut data = Vec::with_capacity(bounds::bytes(pictures.len(), self.row_bytes())?);
        for (row, bytes) in pictures.iter().enumerate() {
            let pixels = self.decode(bytes).and_then(|picture| self.pixels(picture));
            let pixels = pixels.map_err(|what| {
                strings::invalid(input, &format!("picture {}: {what}", input.first_row + row))
            })?;
            self.write(&pixels, &mut data);
        }
        let tensor = Tensor {
            datatype: self.datatype(),
            shape: self.shape(pictures.len() as i64),
            data: data.into(),
        };
        Ok(ports.iter().map(|_| tensor.clone()).collect())
    }

    fn quick(&self, _: &[Input]) -> bool {
        false
    }

    fn apart(&self) -> bool {
        true
    }
}

fn table(config: &Config) -> (Vec<Vec<[u8; 4]>>, usize) {
    let channels = 0..config.channel_count();
    let Values::Float {
        half,
        low,
        high,
        mean,
        std,
    } = &config.values
    else {
        let bytes = |_| (0..=255).map(|value| [value, 0, 0, 0]).collect();
        return (channels.map(bytes).collect(), 1);
    };
    let number = |channel: usize, value: u8| {
        let scaled = low + f32::from(value) / 255.0 * (high - low);
        (scaled - mean[channel]) / std[channel]
    };
    let encode = |number: f32| match half {
        true => {
            let [one, two] = half::f16::from_f32(number).to_le_bytes();
            [one, two, 0, 0]
        }
        false => number.to_le_bytes(),
    };
    let row = |channel| {
        (0..=255)
            .map(|value| encode(number(channel, value)))
            .collect()
    };
    (channels.map(row).collect(), if *half { 2 } else { 4 })
}

fn filter(filter: Filter) -> FilterType {
    match filter {
        Filter::Nearest => FilterType::Nearest,
        Filter::Bilinear => FilterType::Triangle,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    }
}

/// Brightness in the weights of ITU-R 601, in 16-bit fixed point as Pillow has it.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}

/// Height and width in proportion to `from` that cover `size`, enlarged by `shorter_side` over its shorter side.
fn covering(from: [u32; 2], size: [u32; 2], shorter_side: u32) -> [u32; 2] {
    let shorter = u64::from(size[0].min(size[1]).max(1));
    let target = size.map(|side| u64::from(side) * u64::from(shorter_side) / shorter);
    let [tall, wide] = from.map(|side| u64::from(side.max(1)));
    // The side that needs to grow most decides; the other is rounded down, as torchvision does it.
    let sides = if target[0] * wide >= target[1] * tall {
        [target[0], (target[0] * wide / tall).max(target[1])]
    } else {
        [(target[1] * tall / wide).max(target[0]), target[1]]
    };
    sides.map(|side| u32::try_from(side).unwrap_or(u32::MAX))
}

/// Height and width in proportion to `from` that just fit into `size`.
fn fitting(from: [u32; 2], size: [u32; 2]) -> [u32; 2] {
    let [tall, wide] = from.map(|side| u64::from(side.max(1)));
    let [height, width] = size.map(u64::from);
    let sides = if height * wide <= width * tall {
        [height, (height * wide + tall / 2) / tall]
    } else {
        [(width * tall + wide / 2) / wide, width]
    };
    sides.map(|side| u32::try_from(side.max(1)).unwrap_or(u32::MAX))
}

/// Half of what is cut off, rounded as Python does it, to the even number.
fn half(size: u32) -> u32 {
    match size % 4 {
        3 => size / 2 + 1,
        _ => size / 2,
    }
}
