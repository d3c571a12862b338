//! `traflow-icons`: sets of SVG icons as pictures in red, green and blue on white, in files that `traflow teacher` reads.
//!
//! All variants of one emoji, of skin tone and of gender, are in the same split, in whichever set they are, so that a
//! picture of the test split is not in the training split in another colour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use traflow_graph::file;

/// Magic number of an IDX file of bytes in four dimensions.
const MAGIC: u32 = 0x0804;

/// One emoji in so many is of the test split.
const TEST: u64 = 20;

#[derive(Parser)]
#[command(
    version,
    about = "Turns sets of SVG icons into pictures that a teacher is trained on.",
    after_help = "\
Example:
  icons/fetch.sh runs/icons
  traflow-icons runs/icons/noto/icons.json runs/icons/fluent-emoji-flat/icons.json --one-tone -o runs/icons/32"
)]
struct Cli {
    /// Sets in Iconify's format (icons.json of the npm packages @iconify-json/…).
    #[arg(required = true)]
    sets: Vec<PathBuf>,
    /// Height and width of the pictures.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: u32,
    /// Leave out variants of skin tone.
    #[arg(long)]
    one_tone: bool,
    /// Draw only icons of this category, as metadata.json beside a set names it, such as "Smileys & Emotion"; may be
    /// given several times.
    #[arg(long = "category")]
    categories: Vec<String>,
    /// Folder for train-images.idx.gz, test-images.idx.gz and the names of their pictures.
    #[arg(short, long)]
    output: PathBuf,
}

/// A set in Iconify's format.
#[derive(Deserialize)]
struct Set {
    icons: BTreeMap<String, Icon>,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
struct Icon {
    /// What stands between `<svg>` and `</svg>`.
    body: String,
    width: Option<f32>,
    height: Option<f32>,
    /// Icons that the set no longer has.
    #[serde(default)]
    hidden: bool,
}

/// What an npm package of Iconify says of its icons beside the set.
#[derive(Deserialize)]
struct Metadata {
    /// Names of icons by category.
    #[serde(default)]
    categories: BTreeMap<String, BTreeSet<String>>,
}

/// Pictures of a split.
#[derive(Default)]
struct Split {
    /// Names, one a picture.
    names: Vec<String>,
    /// `[n, 3, size, size]`.
    pixels: Vec<u8>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let (mut train, mut test) = (Split::default(), Split::default());
    for path in &cli.sets {
        let set: Set = read(path)?;
        let wanted = in_categories(path, &cli.categories)?;
        for (name, icon) in set.icons.iter().filter(|(_, icon)| !icon.hidden) {
            if cli.one_tone && tone_free(name) != name
                || wanted.as_ref().is_some_and(|names| !names.contains(name))
            {
                continue;
            }
            let split = if is_test(name) { &mut test } else { &mut train };
            let pixels =
                draw(&set, icon, cli.size).with_context(|| format!("{}: icon {name}", path.display()))?;
            split.pixels.extend(pixels);
            split.names.push(name.clone());
        }
    }
    for (name, split) in [("train", &train), ("test", &test)] {
        ensure!(!split.names.is_empty(), "no picture is of the {name} split");
        write(&cli.output.join(format!("{name}-images.idx.gz")), &idx(split, cli.size)?)?;
        write(&cli.output.join(format!("{name}-names.txt")), (split.names.join("\n") + "\n").as_bytes())?;
        println!("{name}: {} pictures of 3×{size}×{size}", split.names.len(), size = cli.size);
    }
    Ok(())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Names of the icons of these categories, by the metadata beside a set; none where all icons are wanted.
fn in_categories(set: &Path, categories: &[String]) -> Result<Option<BTreeSet<String>>> {
    if categories.is_empty() {
        return Ok(None);
    }
    let path = set.with_file_name("metadata.json");
    let metadata: Metadata = read(&path)?;
    let mut names = BTreeSet::new();
    for category in categories {
        let of_category = metadata.categories.get(category).with_context(|| {
            let known = metadata.categories.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("{}: no category {category:?}, only {known}", path.display())
        })?;
        names.extend(of_category.iter().cloned());
    }
    Ok(Some(names))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    file::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// An icon in the middle of a white square, `[3, size, size]`.
fn draw(set: &Set, icon: &Icon, size: u32) -> Result<Vec<u8>> {
    // 16 is what Iconify takes where a set does not say.
    let width = icon.width.or(set.width).unwrap_or(16.0);
    let height = icon.height.or(set.height).unwrap_or(16.0);
    let body = &icon.body;
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{body}</svg>"#
    );
    let tree = Tree::from_str(&svg, &Options::default()).context("no SVG")?;
    let mut pixmap = Pixmap::new(size, size).context("no picture of that size")?;
    pixmap.fill(Color::WHITE);
    let side = size as f32;
    let scale = side / width.max(height);
    let shift = |length: f32| (side - scale * length) / 2.0;
    let middle = Transform::from_row(scale, 0.0, 0.0, scale, shift(width), shift(height));
    resvg::render(&tree, middle, &mut pixmap.as_mut());
    // Nothing of white is transparent, so the colours are not premultiplied by anything.
    let plane = |channel: usize| pixmap.data().iter().skip(channel).step_by(4).copied();
    Ok((0..3).flat_map(plane).collect())
}

/// A split as a gzipped IDX file.
fn idx(split: &Split, size: u32) -> Result<Vec<u8>> {
    let count = u32::try_from(split.names.len()).context("too many pictures")?;
    let mut file = GzEncoder::new(Vec::new(), Compression::best());
    for number in [MAGIC, count, 3, size, size] {
        file.write_all(&number.to_be_bytes())?;
    }
    file.write_all(&split.pixels)?;
    Ok(file.finish()?)
}

/// The name without a skin tone: `man-artist` of `man-artist-medium-dark-skin-tone` (Noto) and of
/// `man-artist-medium-dark` (Fluent).
fn tone_free(name: &str) -> &str {
    // Fluent has lights that are no tones.
    if ["traffic-light", "police-car-light"].iter().any(|light| name.ends_with(light)) {
        return name;
    }
    let mut rest = name.strip_suffix("-skin-tone").unwrap_or(name);
    while let Some(shorter) = ["-light", "-medium", "-dark"].iter().find_map(|tone| rest.strip_suffix(tone)) {
        rest = shorter;
    }
    rest
}

/// What all variants of an emoji have in common: its name without tone and person.
fn base(name: &str) -> String {
    let person = |part: &&str| !["man", "woman", "person", "men", "women", "people"].contains(part);
    tone_free(name).split('-').filter(person).collect::<Vec<_>>().join("-")
}

/// Whether an emoji is of the test split: a function of its base alone (FNV-1a).
fn is_test(name: &str) -> bool {
    let hash = base(name).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The high bits are the better mixed ones.
    (hash >> 32) % TEST == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_have_one_base() {
        for name in [
            "artist",
            "man-artist",
            "woman-artist-light-skin-tone",
            "man-artist-medium-dark",
            "person-artist-medium-light-skin-tone",
        ] {
            assert_eq!(base(name), "artist", "{name}");
            assert_eq!(is_test(name), is_test("artist"), "{name}");
        }
        assert_eq!(tone_free("vertical-traffic-light"), "vertical-traffic-light");
        assert_ne!(base("man-artist"), base("man-cook"));
    }

    #[test]
    fn categories_are_of_the_metadata_beside_a_set() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("icons.json");
        let metadata = r#"{ "categories": { "Food": ["pear", "plum"], "Flags": ["flag"] } }"#;
        fs::write(folder.path().join("metadata.json"), metadata).unwrap();
        assert!(in_categories(&set, &[]).unwrap().is_none());
        let names = in_categories(&set, &["Food".to_owned()]).unwrap().unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["pear", "plum"]);
        let error = in_categories(&set, &["Fish".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("metadata.json: no category \"Fish\", only Flags, Food"), "{error}");
    }

    #[test]
    fn an_icon_is_drawn_on_white() {
        let set = Set { icons: BTreeMap::new(), width: Some(4.0), height: Some(2.0) };
        let body = r##"<path fill="#ff0000" d="M0 0h4v2H0z"/>"##.to_owned();
        let icon = Icon { body, width: None, height: None, hidden: false };
        let pixels = draw(&set, &icon, 4).unwrap();
        let (white, red) = ([255; 4], [255; 4]);
        let plane = |inside: [u8; 4]| [white, inside, inside, white].concat();
        assert_eq!(pixels, [plane(red), plane([0; 4]), plane([0; 4])].concat());
        let broken = Icon { body: "<path".to_owned(), width: None, height: None, hidden: false };
        assert!(draw(&set, &broken, 4).unwrap_err().to_string().starts_with("no SVG"));
    }
}
