//! The files of one log.
//!
//! Owns: which files are read and from where, through every kind of rotation. Must not: open or wait: see [`Folder`].
//!
//! A log has one file that bears its name, and may have some that bore it and are still written to, or read to their end: a
//! writer keeps a renamed file open until it is told. Both are read side by side, and a file without the name is let go once it
//! has not grown for [`QUIET`] looks. What was copied and emptied before its end was read is read on in the copy.

use std::io;

use super::bookmark::{Bookmark, FileId, Reached};
use super::identity::{Became, Open, at_the_end, became, begins_alike, cut_off, find, left_between};
use super::lines::{Format, Raw, Read};

/// So many looks without growth, at four a second a minute, and a file without the name is let go. logrotate tells syslog
/// within the second, and whoever writes a log itself (Exim) opens it for each line.
const QUIET: u32 = 240;
/// With more files than these at once, those that were read are let go sooner: a log is not rotated as often within a minute.
const MOST: usize = 16;
/// How often what is missing is sought: nobody rotates a log thrice within a millisecond.
const TRIES: usize = 3;
/// What is read at once of one file, at most and at least.
const CHUNK: usize = 256 << 10;
const LEAST: usize = 4 << 10;

/// A file that is held open: its name may be another's by now.
pub trait LogFile {
    /// Which file it is.
    fn id(&self) -> FileId;

    /// Its length and when it was last written to, in nanoseconds of any epoch.
    ///
    /// # Errors
    /// It cannot be told.
    fn stat(&mut self) -> io::Result<(u64, i64)>;

    /// Reads at a place; 0: there is nothing.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// Where a log's files are.
pub trait Folder {
    /// Its files.
    type File: LogFile;

    /// Which file bears the log's name; `None` where none does.
    ///
    /// # Errors
    /// It cannot be told.
    fn named(&mut self) -> io::Result<Option<FileId>>;

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&mut self) -> io::Result<Option<Self::File>>;

    /// Opens all that are called after it and can be read, in any order: what a rotation makes of its name.
    ///
    /// # Errors
    /// They cannot be listed.
    fn siblings(&mut self) -> io::Result<Vec<Self::File>>;
}

/// What was not read, and is not to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A file that was followed is gone: what was written to it after the last look, or while nobody looked.
    Gone,
    /// A file was emptied, and there is no copy that begins alike: what was written to it after the last look.
    Emptied,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Polled {
    /// By what became of it.
    pub read: Read,
    /// There is more to read now.
    pub more: bool,
    /// Bytes that are not read yet.
    pub behind: u64,
    /// Whether a file bears the log's name.
    pub there: bool,
    /// What was missed.
    pub lost: Vec<Loss>,
    /// A file or the folder could not be read. What was handed out before stands in the bookmark.
    pub error: Option<io::Error>,
}

/// Follows one log.
pub struct Follower<F: Folder> {
    folder: F,
    of: String,
    format: Format,
    /// The one that bears the name last, where one does.
    files: Vec<Open<F::File>>,
    /// Read to their end and let go, the last ones.
    done: Vec<Reached>,
    named: Option<FileId>,
    /// Until it was looked at: nobody knows what of it was there before.
    first: bool,
    /// Until its files were found.
    before: Option<Bookmark>,
    buffer: Vec<u8>,
}

impl<F: Folder> Follower<F> {
    /// Goes on where a bookmark of the same log lies; else at the end of what there is: what was written before anybody was to
    /// read it is of connections that nobody knows.
    pub fn new(folder: F, of: &str, format: Format, before: Option<Bookmark>) -> Self {
        let before = before.filter(|before| before.of == of);
        Self {
            folder,
            of: of.to_owned(),
            format,
            files: vec![],
            done: before.as_ref().map(|before| before.done.clone()).unwrap_or_default(),
            named: None,
            first: before.is_none(),
            before,
            buffer: vec![0; CHUNK],
        }
    }

    /// How far the log was taken in: all lines that were handed out, and no others.
    #[must_use]
    pub fn bookmark(&self) -> Bookmark {
        match &self.before {
            Some(before) => before.clone(),
            None => Bookmark {
                of: self.of.clone(),
                files: self.files.iter().map(|one| one.reached).collect(),
                done: self.done.clone(),
                cursor: None,
            },
        }
    }

    /// Bytes that are kept of lines without an end.
    #[cfg(test)]
    pub(super) fn unfinished(&self) -> Vec<usize> {
        self.files.iter().map(|one| one.unfinished.kept()).collect()
    }

    /// Reads what is there, about `budget` bytes of it at most, and hands out its lines. After an error the next call goes on.
    pub fn poll(&mut self, budget: usize, take: &mut impl FnMut(Raw<'_>)) -> Polled {
        let mut polled = Polled::default();
        polled.error = self.look(budget, &mut polled, take).err();
        polled
    }

    fn look(&mut self, budget: usize, polled: &mut Polled, take: &mut impl FnMut(Raw<'_>)) -> io::Result<()> {
        if let Some(before) = self.before.clone() {
            self.find(&before, polled)?;
            self.before = None;
        }
        self.follow_the_name()?;
        polled.there = self.named.is_some();
        let mut left = budget;
        let mut at = 0;
        while at < self.files.len() {
            let (copies, read) = self.read(at, &mut left, polled, take)?;
            // What is left of it first.
            if !copies.is_empty() {
                self.files.splice(at..at, copies);
                continue;
            }
            let one = &mut self.files[at];
            one.quiet = if read { 0 } else { one.quiet + 1 };
            at += 1;
        }
        self.let_go();
        Ok(())
    }

    /// Files that were followed before, wherever they are now, and those that were begun and left since. What is missing may
    /// have been copied and emptied while it was sought: it is sought again.
    fn find(&mut self, before: &Bookmark, polled: &mut Polled) -> io::Result<()> {
        let mut tries = 0;
        let missing = loop {
            tries += 1;
            let missing = self.find_once(before)?;
            if missing == 0 || tries == TRIES {
                break missing;
            }
        };
        polled.lost.extend(std::iter::repeat_n(Loss::Gone, missing));
        Ok(())
    }

    /// How many are missing.
    fn find_once(&mut self, before: &Bookmark) -> io::Result<usize> {
        // First the one that has the name: whatever it is called a moment later, it is held.
        let named = self.folder.open()?;
        let named_id = named.as_ref().map(LogFile::id);
        let mut there = self.folder.siblings()?;
        there.retain(|file| Some(file.id()) != named_id);
        there.extend(named);
        let (mut found, mut newest, mut missing) = (vec![], None, 0);
        for reached in &before.files {
            let Some(place) = find(&mut there, reached)? else {
                // One that ends before what was read already has nothing more.
                missing += usize::from(!begins_alike(&mut there, reached.head)?);
                continue;
            };
            let mut file = there.remove(place);
            newest = newest.max(Some(file.stat()?.1));
            found.push(Open::new(file, *reached));
        }
        let has_name = |one: &Open<F::File>| Some(one.file.id()) == named_id;
        if !found.iter().any(has_name) {
            let between = left_between(there, named_id, newest, &mut found, &self.done)?;
            found.extend(between);
        }
        found.sort_by_key(has_name);
        // The name is looked at again next.
        self.named = found.last().filter(|one| has_name(one)).map(|one| one.file.id());
        self.files = found;
        Ok(missing)
    }

    /// The name may be another file's by now.
    fn follow_the_name(&mut self) -> io::Result<()> {
        let now = self.folder.named()?;
        if now == self.named && !self.first {
            return Ok(());
        }
        let file = if now.is_some() { self.folder.open()? } else { None };
        // Whoever lost the name may be written to for a while.
        self.files.iter_mut().for_each(|one| one.quiet = 0);
        let first = std::mem::take(&mut self.first);
        let Some(mut file) = file else {
            self.named = None;
            return Ok(());
        };
        let id = file.id();
        if first {
            let reached = at_the_end(&mut file)?;
            self.files.push(Open::new(file, reached));
        } else if let Some(at) = self.files.iter().position(|one| one.file.id() == id) {
            // It was given back.
            let one = self.files.remove(at);
            self.files.push(one);
        } else {
            let mut newest = None;
            for one in &mut self.files {
                newest = newest.max(Some(one.file.stat()?.1));
            }
            let between =
                left_between(self.folder.siblings()?, Some(id), newest, &mut self.files, &self.done)?;
            self.files.extend(between.into_iter().filter(|one| one.file.id() != id));
            self.files.push(Open::from_the_beginning(file, newest)?);
        }
        self.named = Some(id);
        Ok(())
    }

    /// Reads one file on. Where it was emptied: the copies in which there is more of it.
    fn read(
        &mut self,
        at: usize,
        left: &mut usize,
        polled: &mut Polled,
        take: &mut impl FnMut(Raw<'_>),
    ) -> io::Result<(Vec<Open<F::File>>, bool)> {
        let mut any = false;
        loop {
            let one = &mut self.files[at];
            let (head, position) = (one.reached.head, one.position());
            let more = match became(&mut one.file, head, position)? {
                Became::Grown(0) if head.length > 0 => return Ok((vec![], any)),
                Became::Grown(0) => return Ok((self.still_empty(at)?, any)),
                Became::Grown(more) => more,
                Became::Shorter(size) => {
                    cut_off(one, size)?;
                    return Ok((vec![], true));
                }
                Became::Other => return Ok((self.emptied(at, polled)?, true)),
            };
            if *left == 0 {
                polled.more = true;
                polled.behind += more;
                // It is not quiet: nobody read it.
                return Ok((vec![], true));
            }
            // A beginning at least: by less of it a file is not told from others.
            let most = CHUNK.min((*left).max(LEAST));
            let wanted = usize::try_from(more).unwrap_or(most).min(most);
            let got = one.file.read_at(position, &mut self.buffer[..wanted])?;
            // Emptied while it was read, what was read may be of either. The copy has it, where it is of the first.
            match became(&mut one.file, head, position + got as u64)? {
                Became::Grown(_) if got == 0 => return Ok((vec![], any)),
                Became::Grown(_) => {}
                Became::Shorter(_) | Became::Other => continue,
            }
            *left = left.saturating_sub(got);
            any = true;
            let bytes = &self.buffer[..got];
            one.reached.head.extend(position, bytes);
            one.unfinished.feed(bytes, self.format, &mut one.reached, &mut polled.read, take);
            if head.length == 0 {
                let missed = self.before_the_first_line(at)?;
                if !missed.is_empty() {
                    return Ok((missed, true));
                }
            }
        }
    }

    /// A file that is empty and was written to has been emptied.
    fn still_empty(&mut self, at: usize) -> io::Result<Vec<Open<F::File>>> {
        let one = &mut self.files[at];
        let (size, written) = one.file.stat()?;
        if size > 0 || written == one.reached.written {
            return Ok(vec![]);
        }
        let missed = self.before_the_first_line(at)?;
        self.files[at].reached.written = written;
        Ok(missed)
    }

    /// What is read first of a file tells its copies from others: one that came since it was last looked at, and does not begin
    /// so, is what was in it before it was emptied unseen.
    fn before_the_first_line(&mut self, at: usize) -> io::Result<Vec<Open<F::File>>> {
        let since = self.files[at].reached.written;
        left_between(self.folder.siblings()?, None, Some(since), &mut self.files, &self.done)
    }

    /// A file has other contents: it begins anew, and what was not read of the old ones is sought.
    fn emptied(&mut self, at: usize, polled: &mut Polled) -> io::Result<Vec<Open<F::File>>> {
        let reached = self.files[at].reached;
        // Before copies are looked for: one that comes later is newer.
        let written = self.files[at].file.stat()?.1;
        let mut there = self.folder.siblings()?;
        there.retain(|copy| self.files.iter().all(|one| one.file.id() != copy.id()));
        let mut copies = vec![];
        if let Some(place) = find(&mut there, &reached)? {
            let mut copy = there.remove(place);
            let newest = copy.stat()?.1;
            copies.push(Open::new(copy, reached));
            // It may have been emptied more than once.
            let between = left_between(there, None, Some(newest), &mut copies, &self.done)?;
            copies.extend(between);
        } else if !begins_alike(&mut there, reached.head)? {
            polled.lost.push(Loss::Emptied);
        }
        let one = &mut self.files[at];
        one.reached = Reached { written, ..Reached::beginning(one.reached.file) };
        one.unfinished.forget();
        Ok(copies)
    }

    fn let_go(&mut self) {
        let mut too_many = self.files.len().saturating_sub(MOST);
        let (named, mut stay) = (self.named, vec![]);
        for one in self.files.drain(..) {
            // The last look found nothing more in it.
            let over = one.quiet >= QUIET || (too_many > 0 && one.quiet > 0);
            too_many = too_many.saturating_sub(1);
            if over && Some(one.file.id()) != named {
                self.done.push(one.reached);
            } else {
                stay.push(one);
            }
        }
        self.files = stay;
        self.done.drain(..self.done.len().saturating_sub(MOST));
    }
}
