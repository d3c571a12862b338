//! The operations and their one shape rule.
//!
//! [`Op::output`] is used by the builder, by the check of a model file and by every exporter, so a network that one
//! part of the project accepts is a network for all of them. A shape is that of one picture; a batch is the trainer's
//! own affair.

use crate::coefficient::Coefficient;

/// Channels, height and width of a value, for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of channels.
    pub channels: u16,
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// The most elements of a value or of a weight, so that no size overflows the 32 bits of a small machine.
const MAX_ELEMENTS: u64 = 1 << 28;

impl Shape {
    /// The shape `[channels, height, width]`.
    pub const fn new(channels: u16, height: u16, width: u16) -> Self {
        Self { channels, height, width }
    }

    /// The shape `[channels, 1, 1]` of a vector.
    pub const fn vector(channels: u16) -> Self {
        Self::new(channels, 1, 1)
    }

    /// Pixels of one channel.
    pub const fn pixels(self) -> usize {
        self.height as usize * self.width as usize
    }

    /// Elements in all channels.
    pub const fn elements(self) -> usize {
        self.channels as usize * self.pixels()
    }

    /// Whether height and width are 1.
    pub const fn is_vector(self) -> bool {
        self.height == 1 && self.width == 1
    }

    const fn is_empty(self) -> bool {
        self.channels == 0 || self.height == 0 || self.width == 0
    }

    const fn elements_u64(self) -> u64 {
        self.channels as u64 * self.height as u64 * self.width as u64
    }
}

impl core::fmt::Display for Shape {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

/// Which of the two times of the map G(x, t, s) a node stands for; t = 1 is noise, t = 0 is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// t, where the picture is.
    From,
    /// s ≤ t, where it goes.
    To,
    /// t - s, how far it goes.
    Span,
}

/// How a number becomes a vector of sines and cosines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
pub enum Embedding {
    /// DDPM++: `sin(x f_i)` in the first half of the channels, `cos(x f_i)` in the second, with
    /// `f_i = 10000^(-i / (channels/2 - 1))`.
    Positional,
    /// ADM: `cos(x f_i)`, then `sin(x f_i)`, with `f_i = 10000^(-i / (channels/2))`.
    CosineFirst,
    /// NCSN++: `sin(2π x f_i)`, then `cos(2π x f_i)`; the frequencies are the weight, and are not learned.
    Fourier,
}

/// How a convolution is computed. The result is the same but for rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// By its definition, one product for each tap.
    #[default]
    Direct,
    /// Winograd's minimal filtering F(2×2, 3×3): 16 products for 2×2 pixels instead of 36.
    Winograd2,
    /// Winograd's minimal filtering F(4×4, 3×3): 36 products for 4×4 pixels instead of 144.
    Winograd4,
}

/// One operation. A node has one, and up to [two inputs](Op::arity).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// The picture that the network transforms, x_t.
    Image(Shape),
    /// One of the two times, a vector of one element.
    Time(Time),
    /// A vector of labels that only a training has (the augmentation of a picture); zero at generation.
    Labels {
        /// Number of labels.
        count: u16,
    },
    /// The class of the picture, chosen for each one: a vector with a one at its place, or zero where there is none.
    Class {
        /// Number of classes.
        count: u16,
    },
    /// A number that follows from a time.
    Coefficient(Coefficient),
    /// A vector that depends on time alone, computed at export: its bias, one row for each moment of the file.
    Constant {
        /// Length of the vector.
        channels: u16,
    },
    /// A number as sines and cosines.
    Embedding {
        /// Number of channels, even and at least 4.
        channels: u16,
        /// With which frequencies, and in which order.
        kind: Embedding,
    },
    /// Convolution with stride 1 and as much zero padding as keeps the size. On a vector it is a linear layer.
    /// With a residual, the second input times `residual` is added.
    Conv2d {
        /// Number of output channels.
        out: u16,
        /// Height and width of the kernel: 1 or 3.
        kernel: u8,
        /// Whether a bias is added.
        bias: bool,
        /// Factor of the second input; `None` when there is none.
        residual: Option<f32>,
        /// How it is computed; Winograd's is for a kernel of 3 alone.
        method: Method,
    },
    /// Normalises each group of channels to mean 0 and variance 1, then scales and shifts each channel.
    GroupNorm {
        /// Number of groups; divides the channels.
        groups: u16,
        /// Added to the variance.
        epsilon: f32,
        /// Whether SiLU follows.
        silu: bool,
    },
    /// `x · sigmoid(x)`.
    Silu,
    /// `(a + b) · scale`; where b is a vector, it is added to every pixel.
    Add {
        /// Factor of the sum.
        scale: f32,
    },
    /// `a · b`, where b is a vector of a's channels, or one number.
    Multiply,
    /// `a · (1 + scale) + shift`, where the vector b has the scale of each channel, then the shift of each.
    ScaleShift {
        /// Whether SiLU follows.
        silu: bool,
    },
    /// The channels of a, then those of b.
    Concat,
    /// Mean of each 2×2 square.
    Downsample,
    /// Each pixel becomes a 2×2 square.
    Upsample,
    /// Convolution of each channel with `far, near, 1 - 2 near - 2 far, near, far` along rows and along columns; zeros
    /// surround the picture. FIR resampling is this and box resampling: `[1, 3, 3, 1] = [1, 2, 1] * [1, 1]`.
    Blur {
        /// Factor of the neighbours.
        near: f32,
        /// Factor of their neighbours.
        far: f32,
    },
    /// Adds this many rows and columns of zeros on each side; where negative, takes as many away.
    Border {
        /// How many.
        by: i8,
    },
    /// Scaled dot-product attention between pixels. The input has the queries of all heads, then the keys, then the
    /// values; the output has a third of the channels.
    Attention {
        /// Number of heads.
        heads: u16,
    },
}

/// What is wrong with a node, in the words of the shape rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum OpError {
    #[error("it has {found} inputs where its operation takes {expected}")]
    Arity { expected: usize, found: usize },
    #[error("its shape is empty")]
    Empty,
    #[error("its output or its weight is too large")]
    TooLarge,
    #[error("a kernel of {0}×{0} is not supported, only 1×1 and 3×3 are")]
    Kernel(u8),
    #[error("a kernel of 1×1 has no transform")]
    Method,
    #[error("{groups} groups do not divide {channels} channels")]
    Groups { groups: u16, channels: u16 },
    #[error("{heads} heads do not divide {channels} channels into queries, keys and values")]
    Heads { heads: u16, channels: u16 },
    #[error("its inputs are {0} and {1}, which do not fit together")]
    Mismatch(Shape, Shape),
    #[error("{0} cannot be halved")]
    Odd(Shape),
    #[error("it takes one number, not {0}")]
    NotScalar(Shape),
    #[error("a border of {by} leaves nothing of {shape}, or makes it too large")]
    Border { by: i8, shape: Shape },
    #[error("an embedding has an even number of channels, at least 4, not {0}")]
    EmbeddingChannels(u16),
    #[error("its factor or epsilon is not a finite number, or epsilon is not positive")]
    NotFinite,
}

/// Sizes of a node's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Dimensions of the weight, `[out, in, kernel, kernel]`, or `[length, 1, 1, 1]` of a norm's scale and of frequencies.
    pub weight: Option<[usize; 4]>,
    /// Length of the bias.
    pub bias: Option<usize>,
}

impl Parameters {
    /// Number of weight elements.
    pub fn weights(&self) -> usize {
        self.weight.map_or(0, |dimensions| dimensions.iter().product())
    }

    /// Number of parameters.
    pub fn total(&self) -> usize {
        self.weights() + self.bias.unwrap_or(0)
    }
}

impl Op {
    /// What it is called in measurements.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Image(_) => "image",
            Op::Time(_) => "time",
            Op::Labels { .. } => "labels",
            Op::Class { .. } => "class",
            Op::Coefficient(_) => "coefficient",
            Op::Constant { .. } => "constant",
            Op::Embedding { .. } => "embedding",
            Op::Conv2d { .. } => "conv2d",
            Op::GroupNorm { .. } => "group_norm",
            Op::Silu => "silu",
            Op::Add { .. } => "add",
            Op::Multiply => "multiply",
            Op::ScaleShift { .. } => "scale_shift",
            Op::Concat => "concat",
            Op::Downsample => "downsample",
            Op::Upsample => "upsample",
            Op::Blur { .. } => "blur",
            Op::Border { .. } => "border",
            Op::Attention { .. } => "attention",
        }
    }

    /// Number of inputs.
    pub const fn arity(self) -> usize {
        match self {
            Op::Image(_) | Op::Time(_) | Op::Labels { .. } | Op::Class { .. } | Op::Constant { .. } => 0,
            Op::Conv2d { residual: Some(_), .. }
            | Op::Add { .. }
            | Op::Multiply
            | Op::ScaleShift { .. }
            | Op::Concat => 2,
            Op::Coefficient(_)
            | Op::Embedding { .. }
            | Op::Conv2d { .. }
            | Op::GroupNorm { .. }
            | Op::Silu
            | Op::Downsample
            | Op::Upsample
            | Op::Blur { .. }
            | Op::Border { .. }
            | Op::Attention { .. } => 1,
        }
    }

    /// The shape of the output for these input shapes.
    ///
    /// # Errors
    /// Says which rule the inputs break.
    pub fn output(self, inputs: &[Shape]) -> Result<Shape, OpError> {
        if inputs.len() != self.arity() {
            return Err(OpError::Arity { expected: self.arity(), found: inputs.len() });
        }
        let shape = match (self, inputs) {
            (Op::Image(shape), _) => shape,
            (Op::Time(_), _) => Shape::vector(1),
            (Op::Labels { count } | Op::Class { count }, _) => Shape::vector(count),
            (Op::Constant { channels }, _) => Shape::vector(channels),
            (Op::Coefficient(_), &[x]) => scalar(x)?,
            (Op::Embedding { channels, .. }, &[x]) => {
                scalar(x)?;
                if channels < 4 || channels % 2 != 0 {
                    return Err(OpError::EmbeddingChannels(channels));
                }
                Shape::vector(channels)
            }
            (Op::Conv2d { out, kernel, residual, method, .. }, &[x, ..]) => {
                if kernel != 1 && kernel != 3 {
                    return Err(OpError::Kernel(kernel));
                }
                if kernel == 1 && method != Method::Direct {
                    return Err(OpError::Method);
                }
                let shape = Shape { channels: out, ..x };
                if let Some(factor) = residual {
                    finite(factor)?;
                    same(shape, inputs.get(1).copied().unwrap_or(x))?;
                }
                shape
            }
            (Op::GroupNorm { groups, epsilon, .. }, &[x]) => {
                finite(epsilon)?;
                // By bits: the check of a file of integers uses no arithmetic of floating point.
                if epsilon.to_bits() as i32 <= 0 {
                    return Err(OpError::NotFinite);
                }
                if groups == 0 || x.channels % groups != 0 {
                    return Err(OpError::Groups { groups, channels: x.channels });
                }
                x
            }
            (Op::Silu, &[x]) => x,
            (Op::Add { scale }, &[a, b]) => {
                finite(scale)?;
                if b != Shape::vector(a.channels) {
                    same(a, b)?;
                }
                a
            }
            (Op::Multiply, &[a, b]) => {
                if b != Shape::vector(a.channels) && b != Shape::vector(1) {
                    return Err(OpError::Mismatch(a, b));
                }
                a
            }
            (Op::ScaleShift { .. }, &[a, b]) => {
                if !b.is_vector() || u32::from(b.channels) != 2 * u32::from(a.channels) {
                    return Err(OpError::Mismatch(a, b));
                }
                a
            }
            (Op::Concat, &[a, b]) => {
                let channels = a.channels.checked_add(b.channels).ok_or(OpError::TooLarge)?;
                same(Shape { channels: b.channels, ..a }, b)?;
                Shape { channels, ..a }
            }
            (Op::Downsample, &[x]) => {
                if x.height % 2 != 0 || x.width % 2 != 0 {
                    return Err(OpError::Odd(x));
                }
                Shape { height: x.height / 2, width: x.width / 2, ..x }
            }
            (Op::Upsample, &[x]) => Shape {
                height: x.height.checked_mul(2).ok_or(OpError::TooLarge)?,
                width: x.width.checked_mul(2).ok_or(OpError::TooLarge)?,
                ..x
            },
            (Op::Blur { near, far }, &[x]) => {
                finite(near)?;
                finite(far)?;
                x
            }
            (Op::Border { by }, &[x]) => {
                let side =
                    |size: u16| u16::try_from(i32::from(size) + 2 * i32::from(by)).ok().filter(|&s| s > 0);
                match (side(x.height), side(x.width)) {
                    (Some(height), Some(width)) => Shape { height, width, ..x },
                    _ => return Err(OpError::Border { by, shape: x }),
                }
            }
            (Op::Attention { heads }, &[x]) => {
                if heads == 0 || !x.channels.is_multiple_of(3) || !(x.channels / 3).is_multiple_of(heads) {
                    return Err(OpError::Heads { heads, channels: x.channels });
                }
                Shape { channels: x.channels / 3, ..x }
            }
            // The arity was checked above.
            (_, inputs) => return Err(OpError::Arity { expected: self.arity(), found: inputs.len() }),
        };
        if shape.is_empty() {
            return Err(OpError::Empty);
        }
        let weights = match (self, inputs) {
            (Op::Conv2d { out, kernel, .. }, &[x, ..]) => {
                u64::from(out) * u64::from(x.channels) * u64::from(kernel).pow(2)
            }
            _ => 0,
        };
        if shape.elements_u64().max(weights) > MAX_ELEMENTS { Err(OpError::TooLarge) } else { Ok(shape) }
    }

    /// Sizes of the parameters of a node with these inputs, which [`output`](Op::output) has accepted.
    pub fn parameters(self, inputs: &[Shape]) -> Parameters {
        match (self, inputs) {
            (Op::Conv2d { out, kernel, bias, .. }, &[x, ..]) => Parameters {
                weight: Some([out.into(), x.channels.into(), kernel.into(), kernel.into()]),
                bias: bias.then_some(out.into()),
            },
            (Op::GroupNorm { .. }, &[x]) => {
                Parameters { weight: Some([x.channels.into(), 1, 1, 1]), bias: Some(x.channels.into()) }
            }
            (Op::Embedding { channels, kind: Embedding::Fourier }, _) => {
                Parameters { weight: Some([usize::from(channels) / 2, 1, 1, 1]), bias: None }
            }
            (Op::Constant { channels }, _) => Parameters { weight: None, bias: Some(channels.into()) },
            _ => Parameters::default(),
        }
    }

    /// Multiply-accumulates of a node with these inputs, which [`output`](Op::output) has accepted.
    pub fn macs(self, inputs: &[Shape]) -> u64 {
        match (self, inputs) {
            (Op::Conv2d { .. }, &[x, ..]) => self.parameters(inputs).weights() as u64 * x.pixels() as u64,
            (Op::Attention { .. }, &[x]) => 2 * u64::from(x.channels / 3) * (x.pixels() as u64).pow(2),
            _ => 0,
        }
    }

    /// Whether the kernel may write its output over the input that this index names, element by element.
    pub const fn in_place(self, input: usize) -> bool {
        match self {
            Op::GroupNorm { .. } | Op::Silu => input == 0,
            Op::Add { .. } | Op::Multiply | Op::ScaleShift { .. } => input == 0,
            Op::Conv2d { residual: Some(_), .. } => input == 1,
            _ => false,
        }
    }
}

fn same(a: Shape, b: Shape) -> Result<(), OpError> {
    if a == b { Ok(()) } else { Err(OpError::Mismatch(a, b)) }
}

fn scalar(shape: Shape) -> Result<Shape, OpError> {
    if shape == Shape::vector(1) { Ok(shape) } else { Err(OpError::NotScalar(shape)) }
}

fn finite(factor: f32) -> Result<(), OpError> {
    const EXPONENT: u32 = 0x7f80_0000;
    if factor.to_bits() & EXPONENT != EXPONENT { Ok(()) } else { Err(OpError::NotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Shape = Shape::new(6, 4, 4);

    #[test]
    fn shapes_follow_the_rule() {
        let conv = Op::Conv2d { out: 8, kernel: 3, bias: true, residual: None, method: Method::Direct };
        assert_eq!(conv.output(&[X]), Ok(Shape::new(8, 4, 4)));
        assert_eq!(conv.parameters(&[X]).total(), 8 * 6 * 9 + 8);
        assert_eq!(conv.macs(&[X]), 8 * 6 * 9 * 16);
        assert_eq!(Op::Concat.output(&[X, X]), Ok(Shape::new(12, 4, 4)));
        assert_eq!(Op::Downsample.output(&[X]), Ok(Shape::new(6, 2, 2)));
        assert_eq!(Op::Upsample.output(&[X]), Ok(Shape::new(6, 8, 8)));
        assert_eq!(Op::Attention { heads: 2 }.output(&[X]), Ok(Shape::new(2, 4, 4)));
        assert_eq!(Op::Add { scale: 0.5 }.output(&[X, Shape::vector(6)]), Ok(X));
        assert_eq!(Op::Multiply.output(&[X, Shape::vector(1)]), Ok(X));
        assert_eq!(Op::ScaleShift { silu: true }.output(&[X, Shape::vector(12)]), Ok(X));
        assert_eq!(Op::Border { by: -1 }.output(&[X]), Ok(Shape::new(6, 2, 2)));
        assert_eq!(Op::Blur { near: 0.25, far: 0.0 }.output(&[X]), Ok(X));
    }

    #[test]
    fn broken_nodes_say_which_rule_they_break() {
        let odd = Shape::new(6, 3, 4);
        assert_eq!(Op::Downsample.output(&[odd]), Err(OpError::Odd(odd)));
        assert_eq!(Op::Silu.output(&[]), Err(OpError::Arity { expected: 1, found: 0 }));
        assert_eq!(Op::Concat.output(&[X, odd]), Err(OpError::Mismatch(X, odd)));
        assert_eq!(Op::Labels { count: 0 }.output(&[]), Err(OpError::Empty));
        assert_eq!(Op::Multiply.output(&[X, X]), Err(OpError::Mismatch(X, X)));
        let short = Shape::vector(6);
        assert_eq!(Op::ScaleShift { silu: true }.output(&[X, short]), Err(OpError::Mismatch(X, short)));
        assert_eq!(Op::Border { by: -2 }.output(&[X]), Err(OpError::Border { by: -2, shape: X }));
        assert_eq!(Op::Blur { near: f32::NAN, far: 0.0 }.output(&[X]), Err(OpError::NotFinite));
        assert_eq!(
            Op::GroupNorm { groups: 4, epsilon: 1e-6, silu: false }.output(&[X]),
            Err(OpError::Groups { groups: 4, channels: 6 })
        );
        assert_eq!(
            Op::GroupNorm { groups: 3, epsilon: 0.0, silu: false }.output(&[X]),
            Err(OpError::NotFinite)
        );
        assert_eq!(Op::Attention { heads: 4 }.output(&[X]), Err(OpError::Heads { heads: 4, channels: 6 }));
        assert_eq!(
            Op::Conv2d { out: 2, kernel: 5, bias: true, residual: None, method: Method::Direct }.output(&[X]),
            Err(OpError::Kernel(5))
        );
        assert_eq!(
            Op::Conv2d { out: 2, kernel: 1, bias: true, residual: None, method: Method::Winograd4 }
                .output(&[X]),
            Err(OpError::Method)
        );
        assert_eq!(Op::Add { scale: f32::NAN }.output(&[X, X]), Err(OpError::NotFinite));
        assert_eq!(Op::Upsample.output(&[Shape::new(1, 40_000, 1)]), Err(OpError::TooLarge));
    }
}
