//! Sizes of a network before it is trained.

use std::fmt;

use anyhow::{Result, anyhow};
use serde::Serialize;
use traflow_export::{Options, aligned, draft, integers};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::unet::{SConditioning, Unet};

use crate::boards::{Board, Fit};

/// Parameters of the largest network whose files are made to see their sizes.
const DRAFTED: usize = 64_000_000;

/// Sizes of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// Channels, height and width of the picture.
    pub image: [u16; 3],
    /// Parameters without s-conditioning, as tables of teachers and students count them.
    pub parameters: usize,
    /// Parameters that telling the network of s adds.
    pub s_conditioning: usize,
    /// Multiply-accumulates of one evaluation.
    pub macs: u64,
    /// The same by the paper's counter, which gives attention none.
    pub macs_without_attention: u64,
    /// Of the student's model files, with one step; those of integers have 16 bits only where they have to, as with
    /// `--island-share 1`. None of a network that is too large to try or whose operations a file does not have.
    pub files: Vec<File>,
    /// What the file of integers takes on a board.
    pub board: Option<Fit>,
}

/// Sizes of a model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    /// Number format of the weights.
    pub precision: &'static str,
    /// Bytes of the file; where it comes from is told in some hundred bytes more.
    pub file_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
}

impl Sizes {
    /// Sizes of a network, and what its student takes on a board.
    ///
    /// # Errors
    /// Where the configuration gives no network, or there is no file of integers for the board.
    pub fn new(unet: &Unet, board: Option<&'static Board>) -> Result<Self> {
        let told = |s_conditioning| Unet { s_conditioning, ..unet.clone() };
        // A teacher's student is told s as it is by default.
        let of_student = match unet.s_conditioning {
            SConditioning::None => SConditioning::TiedMean,
            own => own,
        };
        let (plain, student) = (told(SConditioning::None).graph()?, told(of_student).graph()?);
        let mut sizes = Self {
            image: unet.image,
            parameters: plain.parameter_count(),
            s_conditioning: student.parameter_count() - plain.parameter_count(),
            macs: plain.macs(),
            macs_without_attention: plain.macs_without_attention(),
            files: Vec::new(),
            board: None,
        };
        if sizes.parameters > DRAFTED {
            return match board {
                Some(_) => Err(anyhow!("a network of {} parameters fits no board", sizes.parameters)),
                None => Ok(sizes),
            };
        }
        let checkpoint = Checkpoint::random(told(of_student), Role::Student, 0)?;
        let floats = |weights| draft(&checkpoint, &Options { weights, steps: vec![1], winograd: true });
        for (precision, file) in [
            ("f32", floats(Dtype::F32)),
            ("fp16", floats(Dtype::F16)),
            ("int8", integers::draft(&checkpoint, &[1])),
        ] {
            let file = match (file, board) {
                (Ok(file), _) => file,
                (Err(error), Some(_)) => return Err(error.into()),
                (Err(_), None) => continue,
            };
            let mut memory = Vec::new();
            let model = Model::new(aligned(&file, &mut memory))?;
            sizes.files.push(File { precision, file_bytes: file.len(), arena_bytes: model.arena_bytes() });
            if precision == "int8" {
                sizes.board = board.map(|board| board.fit(&model, file.len()));
            }
        }
        Ok(sizes)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |macs: u64| macs as f64 / 1e9;
        let [channels, height, width] = self.image;
        writeln!(f, "image            {channels}×{height}×{width}")?;
        writeln!(f, "parameters       {}", self.parameters)?;
        writeln!(f, "  s-conditioning {} more", self.s_conditioning)?;
        writeln!(f, "one evaluation   {:.3} GMAC", giga(self.macs))?;
        write!(f, "  by the paper   {:.3} GMAC (attention not counted)", giga(self.macs_without_attention))?;
        for File { precision, file_bytes, arena_bytes } in &self.files {
            let [file, arena] = [file_bytes, arena_bytes].map(|bytes| bytes.div_ceil(1000));
            let as_with = if *precision == "int8" {
                ", as with --island-share 1; by default more values have 16 bits"
            } else {
                ""
            };
            write!(f, "\n{precision:<17}file {file} KB, arena {arena} KB{as_with}")?;
        }
        match &self.board {
            Some(fit) => write!(f, "\n{fit}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_the_table() {
        let sizes = Sizes::new(&Unet::preset("16m", None).unwrap(), None).unwrap().to_string();
        for expected in ["parameters       15707235\n", "185088 more", "3.899 GMAC\n", "3.699 GMAC"] {
            assert!(sizes.contains(expected), "{expected:?} is not in\n{sizes}");
        }
    }

    #[test]
    fn files_are_as_large_as_they_will_be() {
        let small = Unet {
            image: [1, 8, 8],
            base: 8,
            mult: vec![1, 2],
            blocks: 1,
            attention: vec![4],
            ..Unet::default()
        };
        for unet in [small, Unet::preset("nano", Some(8)).unwrap()] {
            let sizes = Sizes::new(&unet, None).unwrap();
            let unet = Unet { s_conditioning: SConditioning::TiedMean, ..unet };
            // Of other weights.
            let checkpoint = Checkpoint::random(unet, Role::Student, 1).unwrap();
            let options = Options { weights: Dtype::F16, steps: vec![1], winograd: true };
            let floats = traflow_export::export(&checkpoint, &options).unwrap();
            let options = integers::Options { island_share: 1.0, seeds: 2, ..integers::Options::default() };
            let integers = integers::export(&checkpoint, &options).unwrap();
            let found: Vec<_> =
                sizes.files[1..].iter().map(|file| (file.file_bytes, file.arena_bytes)).collect();
            let mut memory = Vec::new();
            let arena = Model::new(aligned(&floats.file, &mut memory)).unwrap().arena_bytes();
            assert_eq!(
                found,
                [(floats.file.len(), arena), (integers.file.len(), integers.report.arena_bytes)]
            );
        }
    }

    #[test]
    fn a_board_is_too_small_or_not() {
        let board = |preset, board| {
            let board = Some(Board::named(board).unwrap());
            Sizes::new(&Unet::preset(preset, None).unwrap(), board).unwrap().board.unwrap()
        };
        let (small, large) = (board("nano", "stm32h743"), board("16m", "lm3s6965"));
        assert!(small.fits() && !large.fits());
        assert!(small.seconds.unwrap() > 0.1 && small.to_string().contains("arena and stack: fits\n"));
        assert!(large.seconds.is_none() && large.to_string().contains("file and engine: does not fit\n"));
        let error = Board::named("arduino").unwrap_err().to_string();
        assert!(error.starts_with("there is no board arduino, only stm32f411, "), "{error}");
    }
}
