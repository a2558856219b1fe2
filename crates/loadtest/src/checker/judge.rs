//! The verdict on a [`History`]: every deviation as a [`Finding`], and what there was in all.
//!
//! First each lineage is walked from where it began, which gives its stretches (what it claims to
//! have seen without a hole) and whatever is wrong by itself: repeats, places that fall, flags. Then
//! answers and deliveries are joined to one truth, which place of a channel holds which payload;
//! contradictions are findings. At the end every stretch is compared with the truth.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};

use super::{Answer, FlagsAllowed, Follower, Gap, Heard, History, Place, STRANGE};

/// Findings of one fault that are kept; more are only counted.
pub const FINDINGS_PER_FAULT_MAX: usize = 20;

/// What is wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// A publication did not reach a lineage, and no flag covers it.
    Lost,
    /// A lineage heard the same place twice.
    Repeated,
    /// A place, or where a flag leads, is before what the lineage had seen.
    Backwards,
    /// A place has two payloads, or a payload two places.
    Misplaced,
    /// A publisher that waited for each answer finds its publications in another order.
    PublisherOrder,
    /// Heard, but nobody sent it.
    NeverSent,
    /// Heard, although its publisher was told that it is refused.
    Refused,
    /// Heard on a channel that it was not sent to.
    WrongChannel,
    /// A lineage heard what was said over its own connection.
    HeardItself,
    /// A flag that nothing justifies.
    NeedlessGap,
    /// A lineage was away for longer than anything is kept, and heard something before a flag.
    SilentReturn,
    /// A lineage was led into another epoch without a flag.
    SilentEpoch,
    /// A lineage never came as far as the last accepted publication of its channel.
    DidNotCatchUp,
    /// The protocol does not have what was sent.
    Broken,
}

/// One deviation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// A sentence with who shows it, where in the order, and all else that helps to find out why.
    pub text: String,
}

/// What a history holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Publications that were sent.
    pub sent: u64,
    /// Of them: accepted, or taken.
    pub accepted: u64,
    /// Of them: refused.
    pub refused: u64,
    /// Of them: without an answer.
    pub unknown: u64,
    /// What lineages heard, flags not counted.
    pub deliveries: u64,
    /// Flags.
    pub gaps: u64,
    /// Connections that were lost.
    pub cuts: u64,
    /// Absences that had to be followed by a flag.
    pub returns: u64,
}

/// The verdict.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Findings, at most [`FINDINGS_PER_FAULT_MAX`] of each fault.
    pub findings: Vec<Finding>,
    /// All of them, by fault.
    pub counts: BTreeMap<Fault, u64>,
    /// What was judged.
    pub summary: Summary,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    fn add(&mut self, fault: Fault, text: impl Fn() -> String) {
        let count = self.counts.entry(fault).or_default();
        *count += 1;
        if *count <= FINDINGS_PER_FAULT_MAX as u64 {
            let text = text();
            self.findings.push(Finding { fault, text });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{:?}: {}", finding.fault, finding.text)?;
        }
        for (fault, count) in &self.counts {
            writeln!(f, "findings {fault:?}: {count}")?;
        }
        if self.is_clean() {
            writeln!(f, "no findings")?;
        }
        Ok(())
    }
}

/// What a lineage claims to have seen without a hole: after the first place, up to the second.
type Stretch = (Place, Place);

/// Which place of which channel holds which payload, and who said so first.
#[derive(Default)]
struct Truth {
    holds: HashMap<(usize, Place), u32>,
    lies: HashMap<u32, (Place, Option<usize>)>,
}

impl History {
    /// Finds every deviation from what the module's head states.
    pub fn judge(&self, flags: FlagsAllowed) -> Report {
        let mut report = Report {
            summary: self.summary(),
            ..Report::default()
        };
        for (lineage, what) in &self.broken {
            report.add(Fault::Broken, || match lineage {
                Some(lineage) => format!("{}: {what}", self.name(*lineage)),
                None => what.clone(),
            });
        }
        let stretches: Vec<Vec<Stretch>> = (0..self.followers.len())
            .map(|lineage| self.walk(lineage, flags, &mut report))
            .collect();
        let truth = self.truth(&mut report);
        self.find_lost(&stretches, &truth, flags, &mut report);
        self.check_publishers(&mut report);
        self.check_ends(&stretches, &mut report);
        report
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for sent in self.sent.iter().filter(|sent| sent.channel.is_some()) {
            summary.sent += 1;
            match sent.answer {
                Answer::Accepted(_) | Answer::Taken => summary.accepted += 1,
                Answer::Refused => summary.refused += 1,
                Answer::Unknown => summary.unknown += 1,
            }
        }
        for follower in &self.followers {
            summary.deliveries += follower.heard.len() as u64;
            summary.gaps += follower.gaps.len() as u64;
            summary.cuts += follower.cuts;
            summary.returns += follower.absences.len() as u64;
        }
        summary
    }

    fn name(&self, lineage: usize) -> String {
        let follower = &self.followers[lineage];
        format!("{} on {}", follower.name, self.channels[follower.channel])
    }

    fn payload(&self, payload: u32) -> String {
        match self.sent.get(payload as usize) {
            Some(sent) => format!("payload {}", sent.payload),
            None => "a strange payload".to_owned(),
        }
    }

    fn walk(&self, lineage: usize, flags: FlagsAllowed, report: &mut Report) -> Vec<Stretch> {
        let follower = &self.followers[lineage];
        let mut walk = Walk {
            history: self,
            lineage,
            flags,
            report,
            from: follower.begin,
            seen: follower.begin,
            open_flag: false,
            stretches: Vec::new(),
        };
        let mut gaps = follower.gaps.iter().peekable();
        let mut absences = follower.absences.iter().peekable();
        for (at, heard) in follower.heard.iter().enumerate() {
            while let Some((_, flags)) = absences.next_if(|(behind, _)| *behind <= at) {
                walk.come_back(
                    follower.gaps.get(*flags).is_some_and(|gap| gap.behind <= at),
                    *heard,
                );
            }
            while let Some(gap) = gaps.next_if(|gap| gap.behind <= at) {
                walk.flag(gap);
            }
            walk.hear(at, *heard);
        }
        gaps.for_each(|gap| walk.flag(gap));
        walk.end(follower.end);
        walk.stretches
    }

    /// Joins answers and deliveries.
    fn truth(&self, report: &mut Report) -> Truth {
        let mut truth = Truth::default();
        for (number, sent) in (0_u32..).zip(&self.sent) {
            if let (Some(channel), Some(place)) = (sent.channel, sent.place) {
                self.enter(&mut truth, channel, place, number, None, report);
            }
        }
        for (lineage, follower) in self.followers.iter().enumerate() {
            for heard in &follower.heard {
                if self.may_be_heard(lineage, *heard, report) {
                    let (channel, place) = (follower.channel, heard.place());
                    self.enter(&mut truth, channel, place, heard.payload, Some(lineage), report);
                }
            }
        }
        truth
    }

    fn enter(
        &self,
        truth: &mut Truth,
        channel: usize,
        place: Place,
        payload: u32,
        by: Option<usize>,
        report: &mut Report,
    ) {
        let holds = truth.holds.get(&(channel, place)).copied();
        let lies = truth.lies.get(&payload).copied();
        match (holds, lies) {
            (None, None) => {
                truth.holds.insert((channel, place), payload);
                truth.lies.insert(payload, (place, by));
            }
            (Some(held), _) if held == payload => {}
            _ => report.add(Fault::Misplaced, || {
                let who = |by: Option<usize>| by.map_or("the answer".to_owned(), |by| self.name(by));
                let mut text = format!(
                    "{} has {} at {}",
                    who(by),
                    self.payload(payload),
                    self.position(place)
                );
                if let Some(held) = holds {
                    let first = truth.lies.get(&held).and_then(|(_, by)| *by);
                    let _ = write!(text, ", where {} has {}", who(first), self.payload(held));
                }
                if let Some((other, first)) = lies {
                    let _ = write!(text, ", which {} has at {}", who(first), self.position(other));
                }
                text
            }),
        }
    }

    /// Whether a delivery is of something that the lineage may hear at all.
    fn may_be_heard(&self, lineage: usize, heard: Heard, report: &mut Report) -> bool {
        let at = self.position(heard.place());
        let tell = |what: &str| {
            format!(
                "{} heard {} at {at}, {what}",
                self.name(lineage),
                self.payload(heard.payload)
            )
        };
        let sent = (heard.payload != STRANGE).then(|| &self.sent[heard.payload as usize]);
        let (fault, what) = match sent.map(|sent| (sent, sent.channel)) {
            None | Some((_, None)) => (Fault::NeverSent, "which nobody sent".to_owned()),
            Some((_, Some(channel))) if channel != self.followers[lineage].channel => (
                Fault::WrongChannel,
                format!("which was sent to {}", self.channels[channel]),
            ),
            Some((sent, _)) if sent.answer == Answer::Refused => {
                (Fault::Refused, "which was refused".to_owned())
            }
            Some((sent, _)) if sent.speaker == Some(lineage) => {
                // It has its place all the same, and whoever contradicts it shall be found.
                report.add(Fault::HeardItself, || tell("which it had said itself"));
                return true;
            }
            Some(_) => return true,
        };
        report.add(fault, || tell(&what));
        false
    }

    fn find_lost(&self, stretches: &[Vec<Stretch>], truth: &Truth, flags: FlagsAllowed, report: &mut Report) {
        let mut by_channel: Vec<Vec<(Place, u32)>> = vec![Vec::new(); self.channels.len()];
        for ((channel, place), payload) in &truth.holds {
            by_channel[*channel].push((*place, *payload));
        }
        by_channel.iter_mut().for_each(|places| places.sort_unstable());
        for (lineage, follower) in self.followers.iter().enumerate() {
            let mut heard: Vec<Place> = follower.heard.iter().map(|heard| heard.place()).collect();
            heard.sort_unstable();
            let places = &by_channel[follower.channel];
            for (after, to) in &stretches[lineage] {
                let first = places.partition_point(|(place, _)| place <= after);
                for (place, payload) in places[first..].iter().take_while(|(place, _)| place <= to) {
                    let Err(near) = heard.binary_search(place) else {
                        continue;
                    };
                    if self.sent[*payload as usize].speaker == Some(lineage) {
                        continue;
                    }
                    report.add(Fault::Lost, || {
                        let tell = |at: Option<usize>| match at.and_then(|at| heard.get(at)) {
                            Some(place) => self.position(*place).to_string(),
                            None => "nothing".to_owned(),
                        };
                        format!(
                            "{} did not hear {} at {}; before it {}, behind it {}; its stretch is {} to {}, \
                             its flags {}, cuts {}",
                            self.name(lineage),
                            self.payload(*payload),
                            self.position(*place),
                            tell(near.checked_sub(1)),
                            tell(Some(near)),
                            self.position(*after),
                            self.position(*to),
                            follower.gaps.len(),
                            follower.cuts,
                        )
                    });
                }
            }
        }
        self.find_unheard(truth, flags, report);
    }

    /// What was taken without a place: somebody else must have heard it.
    fn find_unheard(&self, truth: &Truth, flags: FlagsAllowed, report: &mut Report) {
        for (number, sent) in (0_u32..).zip(&self.sent) {
            if sent.answer != Answer::Taken || truth.lies.contains_key(&number) {
                continue;
            }
            let mut others = self.followers.iter().enumerate().filter(|(lineage, follower)| {
                Some(follower.channel) == sent.channel && Some(*lineage) != sent.speaker
            });
            // A flag can cover it, and then nobody knows where it was.
            let heard = |follower: &Follower| flags == FlagsAllowed::Never || follower.gaps.is_empty();
            if others.any(|(_, follower)| heard(follower)) {
                report.add(Fault::Lost, || {
                    format!("nobody heard {}, which was taken", self.payload(number))
                });
            }
        }
    }

    fn check_publishers(&self, report: &mut Report) {
        let accepted = self.sent.iter().filter_map(|sent| Some((sent, sent.place?)));
        let mut accepted: Vec<_> = accepted.collect();
        accepted.sort_by_key(|(sent, _)| sent.payload);
        for pair in accepted.windows(2) {
            let [(first, one), (second, other)] = pair else {
                continue;
            };
            if first.payload.publisher == second.payload.publisher && one >= other {
                report.add(Fault::PublisherOrder, || {
                    format!(
                        "payload {} was accepted at {}, and payload {}, sent after that answer, at {}",
                        first.payload,
                        self.position(*one),
                        second.payload,
                        self.position(*other)
                    )
                });
            }
        }
    }

    fn check_ends(&self, stretches: &[Vec<Stretch>], report: &mut Report) {
        for (channel, name) in self.channels.iter().enumerate() {
            let of_channel = self.sent.iter().filter(|sent| sent.channel == Some(channel));
            let Some(last) = of_channel.filter_map(|sent| sent.place).max() else {
                continue;
            };
            for (lineage, follower) in self.followers.iter().enumerate() {
                let Some((_, end)) = stretches[lineage].last() else {
                    continue;
                };
                if follower.channel == channel && *end < last {
                    let at = self.position(*end);
                    report.add(Fault::DidNotCatchUp, || {
                        format!(
                            "{} ended at {at}, and the last publication of {name} was accepted at {}",
                            follower.name,
                            self.position(last)
                        )
                    });
                }
            }
        }
    }
}

/// One lineage from its beginning to its end.
struct Walk<'a> {
    history: &'a History,
    lineage: usize,
    flags: FlagsAllowed,
    report: &'a mut Report,
    /// Where the stretch began.
    from: Place,
    /// The furthest place seen, or covered by a flag.
    seen: Place,
    /// A flag did not say where it leads; what comes next will show it.
    open_flag: bool,
    stretches: Vec<Stretch>,
}

impl Walk<'_> {
    fn add(&mut self, fault: Fault, text: impl Fn(&History) -> String) {
        let (history, lineage) = (self.history, self.lineage);
        self.report
            .add(fault, || format!("{} {}", history.name(lineage), text(history)));
    }

    /// The first delivery after an absence that was too long.
    fn come_back(&mut self, is_told: bool, heard: Heard) {
        if !is_told {
            let seen = self.seen;
            self.add(Fault::SilentReturn, |history| {
                format!(
                    "was away behind {} for longer than anything is kept, and heard {} without a flag",
                    history.position(seen),
                    history.payload(heard.payload)
                )
            });
        }
    }

    fn flag(&mut self, gap: &Gap) {
        if self.flags == FlagsAllowed::Never {
            let seen = self.seen;
            self.add(Fault::NeedlessGap, |history| {
                let to = gap
                    .to
                    .map_or_else(String::new, |to| format!(", to {}", history.position(to)));
                format!("was flagged a gap behind {}{to}", history.position(seen))
            });
        }
        match gap.to {
            Some(to) => self.jump(to),
            None => self.open_flag = true,
        }
    }

    /// A flag leads to `to`.
    fn jump(&mut self, to: Place) {
        self.open_flag = false;
        let seen = self.seen;
        if to < seen {
            return self.add(Fault::Backwards, |history| {
                format!(
                    "was led back to {} by a flag, behind {}",
                    history.position(to),
                    history.position(seen)
                )
            });
        }
        self.stretches.push((self.from, seen));
        if self.flags == FlagsAllowed::WithNewEpoch && to.epoch == seen.epoch {
            self.add(Fault::NeedlessGap, |history| {
                format!(
                    "was flagged a gap from {} to {}, in one epoch",
                    history.position(seen),
                    history.position(to)
                )
            });
        }
        (self.from, self.seen) = (to, to);
    }

    fn hear(&mut self, at: usize, heard: Heard) {
        let place = heard.place();
        let seen = self.seen;
        if place <= seen {
            let before = &self.history.followers[self.lineage].heard[..at];
            let fault = if before.iter().rev().any(|other| other.place() == place) {
                Fault::Repeated
            } else {
                Fault::Backwards
            };
            return self.add(fault, |history| {
                format!(
                    "heard {} at {} after it had seen {}",
                    history.payload(heard.payload),
                    history.position(place),
                    history.position(seen)
                )
            });
        }
        if self.open_flag {
            return self.jump(place);
        }
        if place.epoch != seen.epoch {
            self.step_silently(place);
        }
        self.seen = place;
    }

    fn step_silently(&mut self, place: Place) {
        let seen = self.seen;
        self.stretches.push((self.from, seen));
        self.add(Fault::SilentEpoch, |history| {
            format!(
                "came from {} to {} without a flag",
                history.position(seen),
                history.position(place)
            )
        });
        self.from = place;
    }

    fn end(&mut self, end: Option<Place>) {
        let end = end.unwrap_or(self.seen).max(self.seen);
        if self.open_flag {
            self.jump(end);
        } else if end.epoch != self.seen.epoch {
            self.step_silently(end);
        }
        self.stretches.push((self.from, end));
    }
}
