//! Which file is which, and what became of it.
//!
//! Owns: comparing files by number, beginning and time. Must not: decide what is read of them (`files` does).

use std::io;

use super::bookmark::{FileId, HEAD, Head, Reached};
use super::files::LogFile;
use super::lines::Unfinished;

/// A file that is read.
pub(super) struct Open<T> {
    pub(super) file: T,
    pub(super) reached: Reached,
    pub(super) unfinished: Unfinished,
    /// Looks since it grew.
    pub(super) quiet: u32,
}

impl<T: LogFile> Open<T> {
    pub(super) fn new(file: T, reached: Reached) -> Self {
        let reached = Reached { file: file.id(), ..reached };
        Self { file, reached, unfinished: Unfinished::default(), quiet: 0 }
    }

    /// `newest`: when the newest of those before it was last written to, from which time on it may have been emptied unseen.
    pub(super) fn from_the_beginning(mut file: T, newest: Option<i64>) -> io::Result<Self> {
        let (id, written) = (file.id(), newest.map_or_else(|| file.stat().map(|stat| stat.1), Ok)?);
        Ok(Self::new(file, Reached { written, ..Reached::beginning(id) }))
    }

    pub(super) fn position(&self) -> u64 {
        self.reached.offset + self.unfinished.length
    }
}

/// What became of a file since it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Became {
    /// It goes on: so much can be read.
    Grown(u64),
    /// Its end was cut off, and it begins as before: a host that lost its power.
    Shorter(u64),
    /// It has other contents.
    Other,
}

/// What a file begins with now, of at most so many bytes.
pub(super) fn head_of(file: &mut impl LogFile, length: u64) -> io::Result<Head> {
    let mut bytes = vec![0; usize::try_from(length.min(HEAD)).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(Head::of(&bytes[..filled]))
}

/// What a file is to somebody who came as far as this.
pub(super) fn became(file: &mut impl LogFile, head: Head, position: u64) -> io::Result<Became> {
    if head_of(file, head.length)? != head {
        return Ok(Became::Other);
    }
    // Looked at after the head: what grew between is read at the next look.
    let (size, _) = file.stat()?;
    Ok(match size.checked_sub(position) {
        Some(more) => Became::Grown(more),
        // Nothing of it is as it was.
        None if head.length == 0 || size < head.length => Became::Other,
        None => Became::Shorter(size),
    })
}

/// The file that somebody came so far in: by its number, or the latest copy of it.
pub(super) fn find(there: &mut [impl LogFile], reached: &Reached) -> io::Result<Option<usize>> {
    let mut copy: Option<(i64, usize)> = None;
    for (place, file) in there.iter_mut().enumerate() {
        let is_it = file.id() == reached.file;
        match became(file, reached.head, reached.offset)? {
            Became::Grown(_) | Became::Shorter(_) if is_it => return Ok(Some(place)),
            Became::Grown(_) if reached.head.length > 0 => copy = copy.max(Some((file.stat()?.1, place))),
            _ => {}
        }
    }
    Ok(copy.map(|(_, place)| place))
}

/// Whether one of these begins so.
pub(super) fn begins_alike(there: &mut [impl LogFile], head: Head) -> io::Result<bool> {
    for file in there {
        if head.length > 0 && head_of(file, head.length)? == head {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Files that were begun after the newest of those that were followed, and lost the name before anybody looked; and the one that
/// has it now. Oldest first. Where none that was followed is left, nobody knows which those are.
pub(super) fn left_between<T: LogFile>(
    there: Vec<T>,
    named: Option<FileId>,
    newest: Option<i64>,
    known: &mut [Open<T>],
    done: &[Reached],
) -> io::Result<Vec<Open<T>>> {
    let mut between = vec![];
    for mut file in there {
        let id = file.id();
        let (size, written) = file.stat()?;
        let is_known = known.iter().any(|one| one.file.id() == id);
        // An empty one may be written to yet.
        let later = newest.is_some_and(|newest| size == 0 || written > newest);
        let has_name = Some(id) == named;
        if is_known || !(has_name || later) || (!has_name && is_copy(&mut file, known, done)?) {
            continue;
        }
        between.push((has_name, written, Open::from_the_beginning(file, newest)?));
    }
    between.sort_by_key(|(named, written, _)| (*named, *written));
    Ok(between.into_iter().map(|(.., one)| one).collect())
}

/// Whether it is one that was read, or a copy of one that is read.
fn is_copy<T: LogFile>(file: &mut T, known: &mut [Open<T>], done: &[Reached]) -> io::Result<bool> {
    for one in known {
        // Of what was read of it so far, little may be known: all that it begins with now is compared.
        let length = file.stat()?.0.min(one.file.stat()?.0);
        if length > 0 && head_of(&mut one.file, length)? == head_of(file, length)? {
            return Ok(true);
        }
        // It was emptied since, and this is what was in it.
        let head = one.reached.head;
        if head.length > 0
            && head_of(&mut one.file, head.length)? != head
            && head_of(file, head.length)? == head
        {
            return Ok(true);
        }
    }
    for head in done.iter().map(|reached| reached.head) {
        if head.length > 0 && head_of(file, head.length)? == head {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file that is read from its end on. A line that has begun is nobody's.
pub(super) fn at_the_end(file: &mut impl LogFile) -> io::Result<Reached> {
    let (size, written) = file.stat()?;
    let (head, within) = (head_of(file, size)?, !ends_a_line(file, size)?);
    Ok(Reached { offset: size, head, within, written, ..Reached::beginning(file.id()) })
}

fn ends_a_line(file: &mut impl LogFile, size: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if size > 0 {
        file.read_at(size - 1, &mut last)?;
    }
    Ok(last == [b'\n'])
}

/// What stood after this is gone; of what comes, nothing was read.
pub(super) fn cut_off<T: LogFile>(one: &mut Open<T>, size: u64) -> io::Result<()> {
    one.unfinished.forget();
    if size < one.reached.offset {
        one.reached.offset = size;
        one.reached.within = !ends_a_line(&mut one.file, size)?;
    }
    Ok(())
}
