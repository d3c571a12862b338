//! The checked view of a model file: check once, then trust.
//!
//! If [`Model::new`] is `Ok`:
//!
//! - every node reads earlier nodes, and every shape is what [`Op::output`] says;
//! - every weight and every bias is inside the file, aligned, and overlaps nothing;
//! - every value is inside the arena, no two values alive together share arena bytes, except a result that replaces
//!   the input it may replace, and none shares bytes with the scratch memory of a node that runs meanwhile;
//! - every schedule goes from t = 1 to t = 0 without a gap;
//! - in a file of integers no sum of any node can overflow, whatever the picture.
//!
//! No accessor can fail after that. The format is specified in `docs/model-format.md`. Nothing is copied, so the bytes
//! have to lie at an address that is a multiple of 4 ([`Aligned`]); the view is a few pointers, and needs no heap.

use core::fmt;
use core::ops::Range;

use crate::op::{Method, Op, OpError, Parameters, Shape};
use crate::quant::{self, Context, Integers};
use crate::winograd::Winograd;

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and are read without a copy");

/// The first eight bytes of a model file.
pub const MAGIC: [u8; 8] = *b"TRAFLOW\0";

/// Version of the format that files of f32 and f16 have.
pub const VERSION: u16 = 4;

/// Version of the format that files of integers have.
pub const VERSION_OF_INTEGERS: u16 = 3;

/// Sections and tensors of a file and values of the arena begin at multiples of this many bytes.
pub const ALIGN: usize = 64;

/// The most nodes of a file, since the check of the plan compares them in pairs.
pub const MAX_NODES: usize = 4096;

/// The most schedules of a file.
pub const MAX_SCHEDULES: usize = 16;

/// Output channels of a panel of a convolution's weights. A row of a panel is a whole number of vectors of every
/// processor: of 16, 8 or 4 lanes.
pub const PANEL: usize = 16;

/// How far a blur reaches to each side.
pub const BLUR_REACH: usize = 2;

/// Bytes at the start of the arena's alignment, for files in static memory:
/// `static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("digits.traflow"));`
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// Number format of the weights of convolutions. Everything else is `f32`, or integers where the weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point (IEEE 754 binary16).
    F16,
    /// 8-bit integers; the whole network computes with integers ([`crate::quant`]).
    I8,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
            Dtype::I8 => 1,
        }
    }
}

/// One evaluation of the network: a step from t to s. Time 1 is noise and time 0 is data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Where the picture is.
    pub t: f32,
    /// Where it goes.
    pub s: f32,
}

/// Bytes of scratch memory that a node's kernel needs where values have `element_bytes` an element.
///
/// Attention keeps the keys of a head in panels, and the scores of [`QUERIES`] pixels. A norm keeps two numbers of each
/// channel of each of its [`parts`]. A direct convolution of 3×3 keeps a pixel of zeros, and Winograd's what [`Winograd`]
/// says. A blur keeps one row between borders of [`BLUR_REACH`].
pub fn scratch_bytes(op: Op, inputs: &[Shape], element_bytes: usize) -> u64 {
    let elements = match (op, inputs) {
        (Op::Attention { heads }, &[x]) => {
            let keys = x.pixels().next_multiple_of(PANEL);
            keys as u64 * u64::from(x.channels / 3 / heads.max(1)) + (QUERIES * x.pixels()) as u64
        }
        _ if element_bytes != 4 => 0,
        (Op::Blur { .. }, &[x]) => (u64::from(x.width) + 2 * BLUR_REACH as u64) * u64::from(x.channels),
        (Op::GroupNorm { .. }, &[x]) => 2 * u64::from(x.channels) * parts(x.pixels()) as u64,
        (Op::Conv2d { out, kernel, method, .. }, &[x, ..]) => match Winograd::new(method, x, out) {
            Some(winograd) => winograd.scratch_elements() as u64,
            None if kernel == 3 => x.channels.into(),
            None => 0,
        },
        _ => 0,
    };
    elements * 4
}

/// Parts of so many pixels whose moments a norm computes one by one, and then combines: for threads, but as many for one, so
/// that the result is the same.
pub fn parts(pixels: usize) -> usize {
    (pixels / 128).clamp(1, 8)
}

/// Pixels whose scores attention computes together.
pub const QUERIES: usize = 8;

/// Where the weight of an output channel, a tap and an input channel lies in a convolution's tensor: the output channels
/// are in panels of [`PANEL`], the last one of what is left, and a panel is `[in, tap, out]`.
pub const fn weight_index([outs, channels, taps]: [usize; 3], [out, channel, tap]: [usize; 3]) -> usize {
    let first = out / PANEL * PANEL;
    let width = if outs - first < PANEL { outs - first } else { PANEL };
    first * channels * taps + (channel * taps + tap) * width + out - first
}

/// The name of a node in an error, cut at 47 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; 47],
    len: u8,
}

impl Name {
    /// A name as an error shows it.
    pub fn new(name: &str) -> Self {
        let mut len = name.len().min(47);
        while !name.is_char_boundary(len) {
            len -= 1;
        }
        let mut bytes = [0; 47];
        bytes.iter_mut().zip(name.bytes().take(len)).for_each(|(to, byte)| *to = byte);
        Self { bytes, len: len as u8 }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name from a damaged file does not get to control a terminal.
        let name = core::str::from_utf8(&self.bytes[..self.len.into()]).unwrap_or_default();
        fmt::Display::fmt(&name.escape_debug(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is wrong with a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum ModelError {
    #[error("it is not a TraFlow model file")]
    Magic,
    #[error("it has format version {0}, this program reads {VERSION}, or {VERSION_OF_INTEGERS} of integers")]
    Version(u16),
    #[error("it has {found} bytes where its header says {stated}")]
    Length { stated: u64, found: usize },
    #[error("its checksum is wrong: the file is damaged")]
    Checksum,
    #[error("its bytes do not lie at a multiple of 4 in memory")]
    Misaligned,
    #[error("its header breaks the format: {0}")]
    Header(&'static str),
    #[error("schedule {index}: {problem}")]
    Schedule { index: usize, problem: &'static str },
    #[error("node {index} ({name}): {problem}")]
    Node { index: usize, name: Name, problem: NodeProblem },
}

/// What is wrong with a node of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum NodeProblem {
    #[error("its name is not text, or not where the name before it ends")]
    Name,
    #[error("it has no operation of this format")]
    Op,
    #[error("its record has bits set that its operation does not use")]
    Reserved,
    #[error("it reads node {0}, which is not before it")]
    Order(u32),
    #[error("both of its inputs are node {0}")]
    SameInputs(u32),
    #[error("{0}")]
    Shape(#[from] OpError),
    #[error("its shape is {0} where its inputs give another")]
    WrongShape(Shape),
    #[error("its weight lies outside the file, or not where the tensor before it ends")]
    Weight,
    #[error("its bias lies outside the file, or not where the tensor before it ends")]
    Bias,
    #[error("its bias has {0} rows, neither one nor one for each moment")]
    Rows(u32),
    #[error("its integers break a bound of the arithmetic")]
    Integers,
    #[error("a constant has a place in the arena, or another value has none")]
    Materialised,
    #[error("its value lies outside the arena or is not aligned")]
    Outside,
    #[error("its scratch memory lies outside the arena")]
    Scratch,
    #[error("its value overlaps that of node {0} while both are alive")]
    Overlap(usize),
    #[error("its value overlaps the scratch memory of node {0}")]
    OverlapsScratch(usize),
    #[error("there is a picture before it")]
    SecondImage,
    #[error("it is the last node and does not give a velocity of the picture's shape")]
    Output,
}

/// Words of the header and of a node's record, by their place.
pub(crate) mod word {
    pub(crate) const VERSION_DTYPE: usize = 2;
    pub(crate) const NODES: usize = 3;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const SCHEDULES: usize = 6;
    pub(crate) const MOMENTS: usize = 7;
    pub(crate) const NAMES: usize = 8;
    pub(crate) const PROVENANCE: usize = 9;
    pub(crate) const ARENA: usize = 10;
    pub(crate) const RESERVED: usize = 11;
    pub(crate) const CHECKSUM: usize = 12;

    pub(crate) const OP: usize = 0;
    pub(crate) const INPUT: usize = 4;
    pub(crate) const SHAPE: usize = 6;
    pub(crate) const OFFSET: usize = 8;
    pub(crate) const NAME: usize = 9;
    pub(crate) const NAME_BYTES: usize = 10;
    pub(crate) const WEIGHT: usize = 11;
    pub(crate) const BIAS: usize = 12;
    pub(crate) const ROWS: usize = 13;
    /// Where the scratch memory begins, a multiple of [`ALIGN`](super::ALIGN) or 0 without any, with flags in the bits below.
    pub(crate) const SCRATCH_FLAGS: usize = 14;
    pub(crate) const DIGEST: usize = 15;
}

/// "None" of an input and of an arena offset.
pub(crate) const NONE: u32 = u32::MAX;

/// Sixteen little-endian words: the header, or a node's record.
pub(crate) type Record = [u32; 16];

/// The number format of a file of integers.
const INTEGERS: u32 = 2;

/// The last operation that a file of integers may have.
pub(crate) const LAST_OF_INTEGERS: u32 = 10;

/// An operation as the first four words of a record; `None` where a file cannot hold it. Sizes of the output are the
/// shape's.
pub(crate) fn encode(op: Op) -> Option<[u32; 4]> {
    Some(match op {
        Op::Image(_) => [1, 0, 0, 0],
        Op::Constant { .. } => [2, 0, 0, 0],
        Op::Conv2d { kernel, bias, residual, method, .. } => {
            let method = match method {
                Method::Direct => 0,
                Method::Winograd2 => 1,
                Method::Winograd4 => 2,
            };
            let flags = u32::from(bias) | u32::from(residual.is_some()) << 1 | method << 2;
            [3, kernel.into(), flags, residual.unwrap_or(0.0).to_bits()]
        }
        Op::GroupNorm { groups, epsilon, silu } => [4, groups.into(), silu.into(), epsilon.to_bits()],
        Op::Silu => [5, 0, 0, 0],
        Op::Add { scale } => [6, 0, 0, scale.to_bits()],
        Op::Concat => [7, 0, 0, 0],
        Op::Downsample => [8, 0, 0, 0],
        Op::Upsample => [9, 0, 0, 0],
        Op::Attention { heads } => [10, heads.into(), 0, 0],
        Op::Class { .. } => [11, 0, 0, 0],
        Op::Multiply => [12, 0, 0, 0],
        Op::ScaleShift { silu } => [13, 0, silu.into(), 0],
        Op::Blur { near, far } => [14, far.to_bits(), 0, near.to_bits()],
        Op::Border { by } => [15, by as u8 as u32, 0, 0],
        Op::Time(_) | Op::Labels { .. } | Op::Coefficient(_) | Op::Embedding { .. } => return None,
    })
}

/// The operation of a record that `encode` made; of another record, one that `encode` turns into other words.
fn decode(record: &Record) -> Option<Op> {
    let [code, size, flags, factor] = [record[0], record[1], record[2], record[3]];
    let shape = shape(record);
    let factor = f32::from_bits(factor);
    Some(match code {
        1 => Op::Image(shape),
        2 => Op::Constant { channels: shape.channels },
        3 => Op::Conv2d {
            out: shape.channels,
            kernel: size as u8,
            bias: flags & 1 != 0,
            residual: (flags & 2 != 0).then_some(factor),
            method: match flags >> 2 {
                0 => Method::Direct,
                1 => Method::Winograd2,
                2 => Method::Winograd4,
                _ => return None,
            },
        },
        4 => Op::GroupNorm { groups: size as u16, epsilon: factor, silu: flags & 1 != 0 },
        5 => Op::Silu,
        6 => Op::Add { scale: factor },
        7 => Op::Concat,
        8 => Op::Downsample,
        9 => Op::Upsample,
        10 => Op::Attention { heads: size as u16 },
        11 => Op::Class { count: shape.channels },
        12 => Op::Multiply,
        13 => Op::ScaleShift { silu: flags & 1 != 0 },
        14 => Op::Blur { near: factor, far: f32::from_bits(size) },
        15 => Op::Border { by: size as u8 as i8 },
        _ => return None,
    })
}

fn shape(record: &Record) -> Shape {
    let [first, second] = [record[word::SHAPE], record[word::SHAPE + 1]];
    Shape::new(first as u16, (first >> 16) as u16, second as u16)
}

/// The two sums of a file: of its words, and of the running sums, both modulo 2⁶⁴, with the words of the checksum
/// itself taken as zero. Changes of up to two words always change one of the two.
///
/// The words are taken as records of 16, whose lanes are summed side by side, since one running sum of a large file takes
/// as long as a picture. What is after the last whole record is not looked at: a file has none.
fn checksum(words: &[u32]) -> [u64; 2] {
    let Some((first, rest)) = words.as_chunks::<16>().0.split_first() else { return [0; 2] };
    let mut first = *first;
    first[word::CHECKSUM..].fill(0);
    // Half of the lanes at a time, whose sums fit into the registers of any processor. The halves take turns often enough
    // that the memory goes on reading ahead in the second.
    let (mut lanes, mut sums_of_lanes) = ([[0u64; 8]; 2], [[0u64; 8]; 2]);
    for block in core::iter::once(&[first][..]).chain(rest.chunks(32)) {
        for (half, (lanes, sums)) in lanes.iter_mut().zip(&mut sums_of_lanes).enumerate() {
            let mut running = (*lanes, *sums);
            for record in block {
                let sums = running.0.iter_mut().zip(&mut running.1);
                for ((lane, sums), &word) in sums.zip(&record[8 * half..][..8]) {
                    *lane = lane.wrapping_add(word.into());
                    *sums = sums.wrapping_add(*lane);
                }
            }
            (*lanes, *sums) = running;
        }
    }
    // A word is in as many running sums as there are words from it to the end: 16 for each record from its own on, without
    // those of the record that stand before it.
    let (mut sum, mut sums) = (0u64, 0u64);
    for (index, (lane, sums_of_lane)) in
        (0u64..).zip(lanes.as_flattened().iter().zip(sums_of_lanes.as_flattened()))
    {
        sum = sum.wrapping_add(*lane);
        sums = sums.wrapping_add(sums_of_lane.wrapping_mul(16).wrapping_sub(index.wrapping_mul(*lane)));
    }
    [sum, sums]
}

/// Writes length and checksum into the header, so that changed bytes are a file again if they still keep the format.
/// Bytes that no header fits into, or that are not aligned to 4, are left as they are.
pub fn seal(bytes: &mut [u8]) {
    let length = bytes.len() as u64;
    let Ok(words) = bytemuck::try_cast_slice_mut::<u8, u32>(bytes) else { return };
    if words.len() < 16 {
        return;
    }
    words[word::LENGTH..][..2].copy_from_slice(&halves(length));
    let [sum, sums] = checksum(words);
    words[word::CHECKSUM..][..2].copy_from_slice(&halves(sum));
    words[word::CHECKSUM + 2..][..2].copy_from_slice(&halves(sums));
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn whole(halves: &[u32]) -> u64 {
    u64::from(halves[0]) | u64::from(halves[1]) << 32
}

/// Hands out the sections and tensors of a file, one after the other. Each begins at a multiple of [`ALIGN`], and the
/// bytes before it are zero: nothing overlaps and nothing is hidden.
struct Cursor<'m> {
    bytes: &'m [u8],
    at: usize,
}

impl<'m> Cursor<'m> {
    /// The next `len` bytes.
    fn take(&mut self, len: u64) -> Option<&'m [u8]> {
        let len = usize::try_from(len).ok()?;
        let start = self.at;
        let end = start.checked_add(len)?;
        let padded = end.checked_next_multiple_of(ALIGN)?;
        let zeros = self.bytes.get(end..padded)?;
        if zeros.iter().any(|&byte| byte != 0) {
            return None;
        }
        self.at = padded;
        self.bytes.get(start..end)
    }
}

/// A checked model file.
#[derive(Clone, Copy, Debug)]
pub struct Model<'m> {
    bytes: &'m [u8],
    header: &'m Record,
    schedules: &'m [[u32; 2]],
    moments: &'m [[f32; 2]],
    nodes: &'m [Record],
    names: &'m str,
    provenance: &'m str,
    weights: Dtype,
    image: usize,
}

impl<'m> Model<'m> {
    /// Checks the bytes of a model file. Time is linear in the bytes (a few milliseconds), and quadratic in the nodes: who reads
    /// files of strangers may meet one with 4,096 of them.
    ///
    /// # Errors
    /// The first thing that breaks the format, with the node where it is.
    pub fn new(bytes: &'m [u8]) -> Result<Self, ModelError> {
        let (header, words) = header(bytes)?;
        verify(header, words)?;
        Self::check(bytes, header)
    }

    /// Like [`new`](Self::new), without the checksum, for which all bytes have to be read: a program may do so on another
    /// thread while it makes the first picture. Until [`verify_checksum`](Self::verify_checksum) is `Ok`, numbers may be wrong,
    /// and nothing else.
    ///
    /// # Errors
    /// As those of [`new`](Self::new); a damaged file may break the format too.
    pub fn without_checksum(bytes: &'m [u8]) -> Result<Self, ModelError> {
        let (header, _) = header(bytes)?;
        Self::check(bytes, header)
    }

    /// Compares the checksum with the bytes.
    ///
    /// # Errors
    /// [`ModelError::Checksum`].
    pub fn verify_checksum(&self) -> Result<(), ModelError> {
        let (header, words) = header(self.bytes)?;
        verify(header, words)
    }

    fn check(bytes: &'m [u8], header: &'m Record) -> Result<Self, ModelError> {
        let broken = ModelError::Header;
        let weights = match header[word::VERSION_DTYPE] >> 16 {
            0 => Dtype::F32,
            1 => Dtype::F16,
            INTEGERS => Dtype::I8,
            _ => return Err(broken("the number format of the weights is unknown")),
        };
        if !header[word::ARENA].is_multiple_of(ALIGN as u32) || header[word::RESERVED] != 0 {
            return Err(broken("the size of the arena is not aligned, or reserved bits are set"));
        }
        let count = |count: u32, most: usize, problem| match count as usize {
            count if (1..=most).contains(&count) => Ok(count as u64),
            _ => Err(broken(problem)),
        };
        let nodes = count(header[word::NODES], MAX_NODES, "it has no nodes, or more than 4,096")?;
        let schedules =
            count(header[word::SCHEDULES], MAX_SCHEDULES, "it has no schedules, or more than 16")?;

        let cursor = &mut Cursor { bytes, at: ALIGN };
        let outside = |section| move || ModelError::Header(section);
        let schedules =
            cursor.take(schedules * 8).ok_or_else(outside("the schedules are outside the file"))?;
        let moments = u64::from(header[word::MOMENTS]) * 8;
        let moments = cursor.take(moments).ok_or_else(outside("the moments are outside the file"))?;
        let nodes = cursor.take(nodes * 64).ok_or_else(outside("the nodes are outside the file"))?;
        let names = u64::from(header[word::NAMES]);
        let names = cursor.take(names).ok_or_else(outside("the names are outside the file"))?;
        let provenance = u64::from(header[word::PROVENANCE]);
        let provenance = cursor.take(provenance).ok_or_else(outside("the provenance is outside the file"))?;
        let text = |bytes: &'m [u8], problem| core::str::from_utf8(bytes).map_err(|_| broken(problem));
        let mut model = Self {
            bytes,
            header,
            schedules: bytemuck::try_cast_slice(schedules).map_err(|_| ModelError::Misaligned)?,
            moments: bytemuck::try_cast_slice(moments).map_err(|_| ModelError::Misaligned)?,
            nodes: bytemuck::try_cast_slice(nodes).map_err(|_| ModelError::Misaligned)?,
            names: text(names, "the names are not UTF-8")?,
            provenance: text(provenance, "the provenance is not UTF-8")?,
            weights,
            image: 0,
        };
        model.check_schedules()?;
        let mut image = None;
        let mut name_end = 0;
        for index in 0..model.nodes.len() {
            let check = model.check_node(index, &mut image, &mut name_end, cursor);
            check.map_err(|problem| model.node_error(index, problem))?;
        }
        if name_end != names.len() {
            return Err(broken("there are names after that of the last node"));
        }
        if cursor.at != bytes.len() {
            return Err(broken("there are bytes after the last tensor"));
        }
        model.image = image.ok_or(broken("no node is the picture"))?;
        model.check_output().map_err(|problem| model.node_error(model.nodes.len() - 1, problem))?;
        for index in 0..model.nodes.len() {
            model.check_place(index).map_err(|problem| model.node_error(index, problem))?;
        }
        Ok(model)
    }

    fn node_error(&self, index: usize, problem: NodeProblem) -> ModelError {
        let name = self.node(index).map_or("", |node| node.name());
        ModelError::Node { index, name: Name::new(name), problem }
    }

    /// Schedules tile the moments, have different numbers of steps, and each goes from 1 to 0 without a gap.
    fn check_schedules(&self) -> Result<(), ModelError> {
        let (mut next, mut fewer) = (0, None);
        for (index, &[steps, first]) in self.schedules.iter().enumerate() {
            let error = |problem| ModelError::Schedule { index, problem };
            if fewer.replace(steps).is_some_and(|fewer| steps <= fewer) {
                return Err(error("it has no more steps than the one before it"));
            }
            let end = u64::from(first) + u64::from(steps);
            if steps == 0 || first as usize != next || end > self.moments.len() as u64 {
                return Err(error("its moments are not those after the schedule before it"));
            }
            // The bits of numbers from 0 to 1 are ordered as the numbers, and a device may have no others.
            let mut time = 1f32.to_bits();
            for moment in self.moments.get(next..end as usize).unwrap_or_default() {
                let [t, s] = moment.map(f32::to_bits);
                if t != time || s >= t {
                    return Err(error("its times do not fall from 1 to 0 without a gap"));
                }
                time = s;
            }
            if time != 0 {
                return Err(error("its times do not end at 0"));
            }
            next = end as usize;
        }
        if next == self.moments.len() {
            Ok(())
        } else {
            Err(ModelError::Header("there are moments after the last schedule"))
        }
    }

    /// Everything about a node except its place in the arena.
    fn check_node(
        &self,
        index: usize,
        image: &mut Option<usize>,
        name_end: &mut usize,
        cursor: &mut Cursor<'m>,
    ) -> Result<(), NodeProblem> {
        let record = self.record(index);
        let name = (record[word::NAME] as usize, record[word::NAME_BYTES] as usize);
        let end = name.0.checked_add(name.1).ok_or(NodeProblem::Name)?;
        if name.0 != *name_end || self.names.get(name.0..end).is_none() {
            return Err(NodeProblem::Name);
        }
        *name_end = end;

        if self.weights == Dtype::I8 && record[word::OP] > LAST_OF_INTEGERS {
            return Err(NodeProblem::Op);
        }
        let op = decode(record).ok_or(NodeProblem::Op)?;
        if encode(op).is_none_or(|words| words[..] != record[word::OP..][..4])
            || record[word::SHAPE + 1] >> 16 != 0
            || (self.weights != Dtype::I8 && record[word::DIGEST] != 0)
        {
            return Err(NodeProblem::Reserved);
        }
        let mut shapes = [Shape::vector(0); 2];
        let inputs = &record[word::INPUT..][..2];
        for (place, (&input, shape_of_input)) in inputs.iter().zip(&mut shapes).enumerate() {
            if place >= op.arity() {
                if input != NONE {
                    return Err(NodeProblem::Reserved);
                }
            } else if input as usize >= index {
                return Err(NodeProblem::Order(input));
            } else {
                *shape_of_input = shape(self.record(input as usize));
            }
        }
        if op.arity() == 2 && inputs[0] == inputs[1] {
            return Err(NodeProblem::SameInputs(inputs[0]));
        }
        let shapes = first(&shapes, op.arity());
        if op.output(shapes)? != shape(record) {
            return Err(NodeProblem::WrongShape(shape(record)));
        }
        if matches!(op, Op::Image(_)) && image.replace(index).is_some() {
            return Err(NodeProblem::SecondImage);
        }

        if self.weights == Dtype::I8 {
            if matches!(op, Op::Conv2d { method, .. } if method != Method::Direct) {
                return Err(NodeProblem::Reserved);
            }
            return self.check_integers(index, op, shapes, cursor);
        }
        let parameters = op.parameters(shapes);
        let may_have_rows = matches!(op, Op::GroupNorm { .. });
        if flags(record) & !(if may_have_rows { WEIGHT_ROWS } else { 0 }) != 0 {
            return Err(NodeProblem::Reserved);
        }
        let weights = (parameters.weights() * weight_dtype(op, self.weights).bytes()) as u64;
        let weights = weights * (Node { model: *self, record }).weight_rows() as u64;
        tensor(cursor, record[word::WEIGHT], weights).ok_or(NodeProblem::Weight)?;
        let rows = record[word::ROWS];
        let rows_fit = match parameters.bias {
            Some(_) => rows == 1 || rows as usize == self.moments.len(),
            None => rows == 0,
        };
        if !rows_fit {
            return Err(NodeProblem::Rows(rows));
        }
        let biases = parameters.bias.unwrap_or(0) as u64 * u64::from(rows) * 4;
        tensor(cursor, record[word::BIAS], biases).ok_or(NodeProblem::Bias)
    }

    /// The tensors of a node of integers, and that it cannot overflow.
    fn check_integers(
        &self,
        index: usize,
        op: Op,
        shapes: &[Shape],
        cursor: &mut Cursor<'m>,
    ) -> Result<(), NodeProblem> {
        let record = self.record(index);
        let two_parts = flags(record) & TWO_PARTS != 0;
        let may_have_parts = matches!(op, Op::Conv2d { .. });
        if flags(record) & !(WIDE | if may_have_parts { TWO_PARTS } else { 0 }) != 0 {
            return Err(NodeProblem::Reserved);
        }
        let dimensions = op.parameters(shapes).weight.filter(|_| matches!(op, Op::Conv2d { .. }));
        let weights = dimensions.map_or(0, quant::panel_elements);
        tensor(cursor, record[word::WEIGHT], weights as u64).ok_or(NodeProblem::Weight)?;
        let words = quant::words(op, shapes, two_parts);
        let rows = record[word::ROWS];
        let moments = self.moments.len();
        let rows_fit = if words == 0 { rows == 0 } else { rows == 1 || rows as usize == moments };
        if !rows_fit {
            return Err(NodeProblem::Rows(rows));
        }
        tensor(cursor, record[word::BIAS], words as u64 * 4 * u64::from(rows)).ok_or(NodeProblem::Bias)?;

        let node = Node { model: *self, record };
        let mut wide = [false; 2];
        for (wide, input) in wide.iter_mut().zip(node.inputs()) {
            *wide = input.is_wide();
        }
        let panels = node.panels();
        let context = Context { op, inputs: shapes, wide, wide_output: node.is_wide(), two_parts, panels };
        let integers = (0..rows.max(1) as usize).map(|row| node.integers(row));
        let padded = dimensions.is_none_or(|dimensions| quant::padding_is_zero(dimensions, panels));
        if padded && context.fits(integers) { Ok(()) } else { Err(NodeProblem::Integers) }
    }

    fn check_output(&self) -> Result<(), NodeProblem> {
        let last = self.nodes.len() - 1;
        let computes = decode(self.record(last)).is_some_and(|op| !matches!(op, Op::Constant { .. }));
        let fits = shape(self.record(last)) == shape(self.record(self.image));
        if computes && last != self.image && fits { Ok(()) } else { Err(NodeProblem::Output) }
    }

    /// The place of a value in the arena, against all values that are alive with it, and against the scratch memory of the nodes
    /// that run meanwhile.
    fn check_place(&self, index: usize) -> Result<(), NodeProblem> {
        let Some(node) = self.node(index) else { return Ok(()) };
        if node.offset().is_none() != matches!(node.op(), Op::Constant { .. }) {
            return Err(NodeProblem::Materialised);
        }
        let arena = u64::from(self.header[word::ARENA]);
        let scratch = node.scratch();
        if scratch.end as u64 > arena || scratch.is_empty() && scratch.start > 0 {
            return Err(NodeProblem::Scratch);
        }
        let Some([start, end]) = self.place(node.record) else { return Ok(()) };
        if !start.is_multiple_of(ALIGN as u64) || end > arena {
            return Err(NodeProblem::Outside);
        }

        // The picture is alive from the start, and with the output to the end.
        let is_image = index == self.image;
        let reads = |record: &Record| record[word::INPUT..][..2].contains(&(index as u32));
        let last = match self.nodes.iter().rposition(reads) {
            _ if is_image => self.nodes.len() - 1,
            Some(reader) => reader,
            None => index,
        };
        let from = if is_image { 0 } else { index };
        for other in from..=last {
            let record = self.record(other);
            let scratch = Node { model: *self, record }.scratch();
            if start < scratch.end as u64 && (scratch.start as u64) < end {
                return Err(NodeProblem::OverlapsScratch(other));
            }
            let Some([low, high]) = self.place(record) else { continue };
            if other == index || high <= start || end <= low {
                continue;
            }
            let replaces = other == last
                && !is_image
                && [start, end] == [low, high]
                && shape(record) == node.shape()
                && decode(record).is_some_and(|op| {
                    let inputs = record[word::INPUT..][..2].iter().enumerate();
                    inputs.into_iter().any(|(place, &input)| op.in_place(place) && input == index as u32)
                });
            if !replaces {
                return Err(NodeProblem::Overlap(other));
            }
        }
        Ok(())
    }

    /// First and last byte, exclusive, of a value in the arena.
    fn place(&self, record: &Record) -> Option<[u64; 2]> {
        let start = Some(record[word::OFFSET]).filter(|&offset| offset != NONE)?;
        let node = Node { model: *self, record };
        Some([start.into(), u64::from(start) + (shape(record).elements() * node.element_bytes()) as u64])
    }

    /// The record of a node. There is one: where the number of nodes is not known to bound the index, a reader that
    /// cannot panic gets the header instead.
    fn record(&self, index: usize) -> &'m Record {
        self.nodes.get(index).unwrap_or(self.header)
    }

    /// A node by its place in the list.
    pub fn node(&self, index: usize) -> Option<Node<'m>> {
        self.nodes.get(index).map(|record| Node { model: *self, record })
    }

    /// The nodes in the order in which they run; the last gives the velocity.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node<'m>> + use<'m> {
        let model = *self;
        self.nodes.iter().map(move |record| Node { model, record })
    }

    /// The node that is the picture.
    pub fn image(&self) -> Node<'m> {
        Node { model: *self, record: self.record(self.image) }
    }

    /// The node whose value is the velocity.
    pub fn output(&self) -> Node<'m> {
        Node { model: *self, record: self.record(self.nodes.len() - 1) }
    }

    /// The number of classes that a picture can be asked for; 0 where the network is told of none.
    pub fn classes(&self) -> usize {
        let count = |node: Node<'_>| matches!(node.op(), Op::Class { .. }).then(|| node.shape().elements());
        self.nodes().find_map(count).unwrap_or(0)
    }

    /// The numbers of steps that the file has schedules for, in increasing order.
    pub fn steps(&self) -> impl Iterator<Item = usize> + use<'m> {
        self.schedules.iter().map(|schedule| schedule[0] as usize)
    }

    /// The moments of the schedule of this many steps, each with its index among all moments.
    pub fn schedule(&self, steps: usize) -> Option<impl Iterator<Item = (usize, Moment)> + use<'m>> {
        let &[steps, first] = self.schedules.iter().find(|schedule| schedule[0] as usize == steps)?;
        let moments = self.moments.iter().map(|&[t, s]| Moment { t, s }).enumerate();
        Some(moments.skip(first as usize).take(steps as usize))
    }

    /// Number of moments of all schedules.
    pub fn moments(&self) -> usize {
        self.moments.len()
    }

    /// Number format of the weights of convolutions.
    pub fn weights(&self) -> Dtype {
        self.weights
    }

    /// Bytes of all weights and biases.
    pub fn weights_bytes(&self) -> usize {
        let parameters = |node: Node<'_>| {
            if self.weights == Dtype::I8 {
                return node.panels().len() + node.row_words() * node.bias_rows() * 4;
            }
            let bias = node.parameters().bias.unwrap_or(0) * node.bias_rows() * 4;
            let weight = node.parameters().weights() * weight_dtype(node.op(), self.weights).bytes();
            weight * node.weight_rows() + bias
        };
        self.nodes().map(parameters).sum()
    }

    /// Size of the arena in bytes, which begins at a multiple of 64.
    pub fn arena_bytes(&self) -> usize {
        self.header[word::ARENA] as usize
    }

    /// Where the network comes from, as JSON: licence, dataset, teacher, configuration.
    pub fn provenance(&self) -> &'m str {
        self.provenance
    }
}

/// The header of a file, and all of its words.
fn header(bytes: &[u8]) -> Result<(&Record, &[u32]), ModelError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(ModelError::Magic);
    }
    let length = |stated| ModelError::Length { stated, found: bytes.len() };
    if bytes.len() < ALIGN {
        return Err(length(ALIGN as u64));
    }
    let header: &Record = bytemuck::try_from_bytes(&bytes[..ALIGN]).map_err(|_| ModelError::Misaligned)?;
    let version = header[word::VERSION_DTYPE] as u16;
    let integers = header[word::VERSION_DTYPE] >> 16 == INTEGERS;
    if version != if integers { VERSION_OF_INTEGERS } else { VERSION } {
        return Err(ModelError::Version(version));
    }
    let stated = whole(&header[word::LENGTH..]);
    if stated != bytes.len() as u64 {
        return Err(length(stated));
    }
    let broken = ModelError::Header;
    if stated > u64::from(u32::MAX) {
        return Err(broken("a file is smaller than 4 GiB"));
    }
    let words = bytemuck::try_cast_slice(bytes).map_err(|_| broken("the length is not a multiple of 64"))?;
    Ok((header, words))
}

/// Compares the checksum of a header with the words of its file.
fn verify(header: &Record, words: &[u32]) -> Result<(), ModelError> {
    let stated = [whole(&header[word::CHECKSUM..]), whole(&header[word::CHECKSUM + 2..])];
    if checksum(words) == stated { Ok(()) } else { Err(ModelError::Checksum) }
}

/// The first of an operation's input shapes.
fn first(shapes: &[Shape; 2], count: usize) -> &[Shape] {
    shapes.get(..count).unwrap_or(shapes)
}

/// Checks that the next tensor of a file is where a record says. A record without a tensor says 0.
fn tensor(cursor: &mut Cursor<'_>, offset: u32, bytes: u64) -> Option<()> {
    let expected = if bytes == 0 { 0 } else { cursor.at };
    cursor.take(bytes)?;
    (offset as usize == expected).then_some(())
}

/// Number format of a node's weight in a file of floating point: a norm's scale is always `f32`.
pub(crate) fn weight_dtype(op: Op, weights: Dtype) -> Dtype {
    if matches!(op, Op::Conv2d { .. }) { weights } else { Dtype::F32 }
}

/// Flag of a record: the node's value is 16 bits wide.
pub(crate) const WIDE: u32 = 1;

/// Flag of a record: a convolution's input has two parts with scales of their own.
pub(crate) const TWO_PARTS: u32 = 2;

/// Flag of a record: a norm's weight has a row for each moment.
pub(crate) const WEIGHT_ROWS: u32 = 4;

fn flags(record: &Record) -> u32 {
    record[word::SCRATCH_FLAGS] % ALIGN as u32
}

/// A weight in the number format of its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weights<'m> {
    /// 32-bit floating point.
    F32(&'m [f32]),
    /// Bits of 16-bit floating point.
    F16(&'m [u16]),
}

/// A node of a model file.
#[derive(Clone, Copy)]
pub struct Node<'m> {
    model: Model<'m>,
    record: &'m Record,
}

impl<'m> Node<'m> {
    /// Name, as the checkpoint has it.
    pub fn name(&self) -> &'m str {
        let start = self.record[word::NAME] as usize;
        let end = start.saturating_add(self.record[word::NAME_BYTES] as usize);
        self.model.names.get(start..end).unwrap_or_default()
    }

    /// What it computes.
    pub fn op(&self) -> Op {
        // The check has decoded every record.
        decode(self.record).unwrap_or(Op::Silu)
    }

    /// Shape of its output.
    pub fn shape(&self) -> Shape {
        shape(self.record)
    }

    /// The nodes that it reads.
    pub fn inputs(&self) -> impl Iterator<Item = Node<'m>> + use<'m> {
        let model = self.model;
        self.record[word::INPUT..][..2].iter().filter_map(move |&input| model.node(input as usize))
    }

    /// Shapes of its inputs, as many as [`Op::arity`]; the others are empty.
    fn input_shapes(&self) -> [Shape; 2] {
        let mut shapes = [Shape::vector(0); 2];
        for (shape, input) in shapes.iter_mut().zip(self.inputs()) {
            *shape = input.shape();
        }
        shapes
    }

    /// Where its output begins in the arena, in bytes; `None` for a constant.
    pub fn offset(&self) -> Option<usize> {
        Some(self.record[word::OFFSET]).filter(|&offset| offset != NONE).map(|offset| offset as usize)
    }

    /// Where the scratch memory of its kernel lies in the arena, in bytes; empty where it needs none.
    pub fn scratch(&self) -> Range<usize> {
        let (op, shapes) = (self.op(), self.input_shapes());
        let inputs = first(&shapes, op.arity());
        let bytes = match self.model.weights {
            Dtype::I8 => quant::scratch_bytes(op, inputs),
            _ => scratch_bytes(op, inputs, 4),
        };
        let start = (self.record[word::SCRATCH_FLAGS] / ALIGN as u32) as usize * ALIGN;
        start..start.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Sizes of its parameters.
    pub fn parameters(&self) -> Parameters {
        let op = self.op();
        op.parameters(first(&self.input_shapes(), op.arity()))
    }

    /// Multiply-accumulates of one evaluation, by the definition of the operation.
    pub fn macs(&self) -> u64 {
        let op = self.op();
        op.macs(first(&self.input_shapes(), op.arity()))
    }

    /// Its weight at a moment, a convolution's in the order of [`weight_index`], or the scale of a norm; empty where it has
    /// none, and in a file of integers.
    pub fn weight(&self, moment: usize) -> Weights<'m> {
        if self.model.weights == Dtype::I8 {
            return Weights::F32(&[]);
        }
        let count = self.parameters().weights();
        let dtype = weight_dtype(self.op(), self.model.weights);
        let bytes = self.tensor(word::WEIGHT, count * dtype.bytes() * self.weight_rows());
        let row = if self.weight_rows() == 1 { 0 } else { moment };
        let bytes = bytes.chunks_exact((count * dtype.bytes()).max(1)).nth(row).unwrap_or_default();
        match dtype {
            Dtype::F32 => Weights::F32(bytemuck::try_cast_slice(bytes).unwrap_or_default()),
            Dtype::F16 => Weights::F16(bytemuck::try_cast_slice(bytes).unwrap_or_default()),
            Dtype::I8 => Weights::F32(&[]),
        }
    }

    /// The weight of a convolution of integers, in the order of [`quant::panel_index`]; empty for every other node.
    pub fn panels(&self) -> &'m [i8] {
        let weight = self.parameters().weight.filter(|_| matches!(self.op(), Op::Conv2d { .. }));
        let bytes = self.tensor(word::WEIGHT, weight.map_or(0, quant::panel_elements));
        if self.model.weights == Dtype::I8 { bytemuck::cast_slice(bytes) } else { &[] }
    }

    /// What it computes with at a moment; `None` in a file of floating point.
    pub fn integers(&self, moment: usize) -> Option<Integers<'m>> {
        if self.model.weights != Dtype::I8 {
            return None;
        }
        let (op, shapes, words) = (self.op(), self.input_shapes(), self.row_words());
        let bytes = self.tensor(word::BIAS, words * self.bias_rows() * 4);
        let rows: &[u32] = bytemuck::try_cast_slice(bytes).ok()?;
        let row = if self.bias_rows() <= 1 { 0 } else { moment };
        let row = rows.get(row.checked_mul(words)?..)?.get(..words)?;
        Integers::parse(op, &shapes[..op.arity()], self.has_two_parts(), row)
    }

    /// Words of a row of its integers.
    fn row_words(&self) -> usize {
        let op = self.op();
        quant::words(op, first(&self.input_shapes(), op.arity()), self.has_two_parts())
    }

    /// Whether its value is 16 bits wide, in a file of integers.
    pub fn is_wide(&self) -> bool {
        flags(self.record) & WIDE != 0
    }

    /// Whether it is a convolution of integers whose input has two parts with scales of their own.
    pub fn has_two_parts(&self) -> bool {
        flags(self.record) & TWO_PARTS != 0
    }

    /// Bytes of an element of its value.
    pub fn element_bytes(&self) -> usize {
        match self.model.weights {
            Dtype::I8 => 1 << usize::from(self.is_wide()),
            _ => 4,
        }
    }

    /// What the self-test expects of it; `None` where the file does not say.
    pub fn digest(&self) -> Option<u32> {
        Some(self.record[word::DIGEST]).filter(|&digest| digest != 0)
    }

    /// Its bias at a moment; empty where it has none, and in a file of integers. A constant's bias is its value.
    pub fn bias(&self, moment: usize) -> &'m [f32] {
        if self.model.weights == Dtype::I8 {
            return &[];
        }
        let count = self.parameters().bias.unwrap_or(0);
        let bytes = self.tensor(word::BIAS, count * self.bias_rows() * 4);
        let rows: &[f32] = bytemuck::try_cast_slice(bytes).unwrap_or_default();
        let row = if self.bias_rows() == 1 { 0 } else { moment };
        rows.chunks_exact(count.max(1)).nth(row).unwrap_or_default()
    }

    /// Rows of its bias: 1, or one for each moment, or 0 where it has none.
    pub fn bias_rows(&self) -> usize {
        self.record[word::ROWS] as usize
    }

    /// Rows of its weight: 1, or one for each moment.
    pub fn weight_rows(&self) -> usize {
        if flags(self.record) & WEIGHT_ROWS != 0 { self.model.moments() } else { 1 }
    }

    fn tensor(&self, place: usize, bytes: usize) -> &'m [u8] {
        let start = self.record[place] as usize;
        self.model.bytes.get(start..start.saturating_add(bytes)).unwrap_or_default()
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name()).field("op", &self.op()).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use std::vec::Vec;

    #[test]
    fn a_checksum_is_the_sums_of_its_definition() {
        for records in (0..9).chain([33, 34, 100]) {
            let words: Vec<u32> = (0..16 * records).map(|i| Noise::new(4).word(i)).collect();
            let (mut sum, mut sums) = (0u64, 0u64);
            for (index, &word) in words.iter().enumerate() {
                let own = (word::CHECKSUM..16).contains(&index);
                sum = sum.wrapping_add(if own { 0 } else { word.into() });
                sums = sums.wrapping_add(sum);
            }
            assert_eq!(checksum(&words), [sum, sums], "{records} records");
        }
    }

    /// A file's memory plan has room for so much, whatever reads it: who changes one of these numbers makes another version of the
    /// format.
    #[test]
    fn scratch_memory_is_a_part_of_the_format() {
        let conv = |method, x, out| {
            let kernel = 3;
            scratch_bytes(Op::Conv2d { out, kernel, bias: true, residual: None, method }, &[x], 4)
        };
        assert_eq!(conv(Method::Direct, Shape::new(12, 6, 10), 64), 48);
        assert_eq!(conv(Method::Winograd4, Shape::new(15, 32, 32), 64), 60, "direct sums");
        assert_eq!(conv(Method::Winograd4, Shape::new(64, 16, 16), 64), 334_528);
        assert_eq!(conv(Method::Winograd2, Shape::new(128, 8, 8), 384), 314_304);
        assert_eq!(conv(Method::Winograd4, Shape::new(200, 40, 24), 20), 2_353_344);
        let attention = |bytes| scratch_bytes(Op::Attention { heads: 2 }, &[Shape::new(96, 6, 10)], bytes);
        assert_eq!(attention(4), 6016);
        let norm = Op::GroupNorm { groups: 4, epsilon: 1e-5, silu: true };
        assert_eq!(scratch_bytes(norm, &[Shape::new(20, 16, 16)], 4), 320);
        let blur = Op::Blur { near: 0.25, far: 0.0 };
        assert_eq!(scratch_bytes(blur, &[Shape::new(8, 6, 10)], 4), 448);
    }
}
