package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Verdict is the short answer to a question.
type Verdict string

// The verdicts. Good is only given when everything that it rests on is known.
const (
	Good      Verdict = "good"
	Attention Verdict = "attention" // not known yet, or to be watched
	Bad       Verdict = "bad"       // a person has to act
)

// rank puts the worst first.
func (v Verdict) rank() int {
	switch v {
	case Bad:
		return 0
	case Attention:
		return 1
	}
	return 2
}

// Summary answers what an owner asks of the node.
type Summary struct {
	At      time.Time `json:"at"`
	Verdict Verdict   `json:"verdict"` // the worst of the answers
	Health  Health    `json:"health"`
	Answers []Answer  `json:"answers"`
	Busy    bool      `json:"busy"` // a crawl or poll is running
}

// An Answer is one question with its answer.
type Answer struct {
	Question string     `json:"question"`
	Verdict  Verdict    `json:"verdict"`
	Sentence string     `json:"sentence"`
	Evidence []Evidence `json:"evidence"` // what the answer rests on, worst first
}

// Evidence is one fact.
type Evidence struct {
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
	Table   string  `json:"table,omitempty"` // where to look
	Key     string  `json:"key,omitempty"`   // AUID or poll key
}

// The questions.
const (
	QuestionIntact  = "Are my collections intact, and where they should be?"
	QuestionNetwork = "Is the network working?"
	QuestionRepairs = "Was any copy ever repaired?"
)

// How old things may be before they are said to be old. Polls of one collection are many
// weeks apart in a large network, so that silence is no fault before.
const (
	heardWithin  = 14 * 24 * time.Hour
	settling     = time.Hour // after the start, silence says nothing
	pollPatience = 2         // intervals between polls
	listed       = 5         // facts of one kind named singly
	recentPolls  = 20
)

// Summary answers the three questions as of now.
func (s Sources) Summary(now time.Time) Summary {
	sum := Summary{At: now, Answers: []Answer{s.intact(now), s.network(now), s.repaired()}}
	if s.Health != nil {
		sum.Health = s.Health()
	} else {
		sum.Health = Health{State: "unknown", Reason: "the node does not tell its health"}
	}
	worst := slices.MinFunc(sum.Answers, func(a, b Answer) int { return cmp.Compare(a.Verdict.rank(), b.Verdict.rank()) })
	sum.Verdict = worst.Verdict
	if sum.Health.State != HealthOK && sum.Verdict == Good {
		sum.Verdict = Attention
	}
	if s.AUs != nil {
		sum.Busy = slices.ContainsFunc(s.AUs(), func(r AURow) bool { return r.Crawling || r.Polling })
	}
	return sum
}

// unfinished tells whether a collection has never been collected whole, as far as is known. One
// that came with its content, from another box, counts as collected.
func unfinished(r AURow) bool {
	return r.Crawled.IsZero() && r.Polled.IsZero() && (!r.Holds() || r.Crawling || r.CrawlFailed)
}

// A finding collects evidence.
type finding struct{ Answer }

func (f *finding) add(v Verdict, table, key, format string, args ...any) {
	f.Evidence = append(f.Evidence, Evidence{v, fmt.Sprintf(format, args...), table, key})
}

// close sorts the evidence and takes the worst verdict. The sentence is the one given for it.
func (f *finding) close(sentences map[Verdict]string) Answer {
	slices.SortStableFunc(f.Evidence, func(a, b Evidence) int { return cmp.Compare(a.Verdict.rank(), b.Verdict.rank()) })
	f.Verdict = Attention
	if len(f.Evidence) > 0 {
		f.Verdict = f.Evidence[0].Verdict
	}
	f.Sentence = sentences[f.Verdict]
	return f.Answer
}

// intact looks at disks, crawls and the outcome of polls.
func (s Sources) intact(now time.Time) Answer {
	f := &finding{Answer{Question: QuestionIntact}}
	s.diskFacts(f)
	box := s.box()
	if box.ConfigFault != "" {
		f.add(Attention, "config", "", "The newest configuration is not in force: %s", box.ConfigFault)
	}
	if box.Alarm {
		f.add(Bad, "disks", "", "%s", cmp.Or(strings.Join(box.Todo, " "), box.Sentence, "The box asks for attention."))
	}

	var aus []AURow
	if s.AUs != nil {
		aus = slices.DeleteFunc(slices.Clone(s.AUs()), func(r AURow) bool { return r.Internal })
	}
	if len(aus) == 0 {
		f.add(Attention, "titles", "", "This node has no collection yet.")
		return f.close(map[Verdict]string{
			Attention: "There is nothing to look after yet: no collection has been added.",
			Bad:       "There is a fault, and no collection has been added yet.",
		})
	}

	kinds := []struct {
		verdict  Verdict
		one      string // of one collection, its name last
		many     string // how many, in words
		belongs  func(AURow) bool
		explains func(AURow) string
	}{
		{Bad, "Not in service", "not in service", func(r AURow) bool { return r.Fault != "" },
			func(r AURow) string { return r.Fault }},
		{Bad, "Damaged", "damaged", func(r AURow) bool { return r.Damaged > 0 },
			func(r AURow) string {
				return fmt.Sprintf("%s differ from the other copies and are not repaired", count(r.Damaged, "URL"))
			}},
		{Attention, "Not collected yet", "not collected yet", unfinished,
			func(r AURow) string {
				if r.CrawlFailed {
					return "the last crawl failed: " + cmp.Or(r.CrawlResult, "no reason given")
				}
				if r.Crawling {
					return "the first crawl is running"
				}
				return "the first crawl has not ended"
			}},
		{Attention, "Crawl failed", "whose last crawl failed", func(r AURow) bool { return !unfinished(r) && r.CrawlFailed },
			func(r AURow) string { return cmp.Or(r.CrawlResult, "no reason given") }},
		{Attention, "No quorum", "without a quorum in the last poll", func(r AURow) bool { return r.NoQuorum },
			func(r AURow) string {
				if r.Polled.IsZero() {
					return "too few peers voted, and no poll was complete yet: nobody has confirmed this copy"
				}
				return "too few peers voted in the last poll; last complete poll " + FormatTime(r.Polled)
			}},
		{Attention, "Never compared with other copies", "never compared with other copies", func(r AURow) bool { return r.Polled.IsZero() && !r.NoQuorum && !unfinished(r) },
			func(r AURow) string { return "no poll has been completed: nobody has confirmed this copy" }},
		{Attention, "Partly undecided", "partly undecided", func(r AURow) bool { return r.Undecided > 0 },
			func(r AURow) string {
				return fmt.Sprintf("on %s the last poll could not decide", count(r.Undecided, "URL"))
			}},
		{Attention, "Poll overdue", "whose poll is overdue", func(r AURow) bool {
			return !r.Polled.IsZero() && box.PollEvery > 0 && now.Sub(r.Polled) > pollPatience*box.PollEvery
		},
			func(r AURow) string { return "last complete poll " + FormatTime(r.Polled) }},
		{Attention, "No other copy is known", "of which no other copy is known", func(r AURow) bool {
			return !r.Polled.IsZero() && !r.NoQuorum && r.AgreeingPeers == 0
		},
			func(r AURow) string { return "no peer agreed in the last poll" }},
		{Attention, "Size not known", "whose size is not known", func(r AURow) bool { return r.URLs < 0 && !r.Crawled.IsZero() },
			func(AURow) string { return "the index is being rebuilt" }},
	}
	flagged := make([]bool, len(aus))
	for _, k := range kinds {
		n := 0
		for i, r := range aus {
			if !k.belongs(r) {
				continue
			}
			flagged[i] = true
			if n++; n <= listed {
				f.add(k.verdict, "aus", string(r.AU), "%s: %s (%s).", k.one, r.Name, strings.TrimSuffix(k.explains(r), "."))
			}
		}
		if n > listed {
			f.add(k.verdict, "aus", "", "And %s more %s.", FormatInt(int64(n-listed)), k.many)
		}
	}
	good := 0
	var oldest time.Time
	for i, r := range aus {
		if !flagged[i] {
			good++
			if oldest.IsZero() || r.Polled.Before(oldest) {
				oldest = r.Polled
			}
		}
	}
	if good > 0 {
		which := "the oldest of these polls"
		if good == 1 {
			which = "that poll"
		}
		f.add(Good, "aus", "", "%s confirmed by other nodes in the last poll; %s ended %s.", of(good, len(aus), "collection", "was", "were"), which, FormatTime(oldest))
	}
	here, attention := "The one collection is here, and the other nodes confirm it.", "It is not known yet whether the one collection is intact."
	if len(aus) > 1 {
		here = fmt.Sprintf("All %s are here, and the other nodes confirm them.", count(len(aus), "collection"))
		attention = fmt.Sprintf("Not all is known: %d of %s are confirmed by other nodes.", good, count(len(aus), "collection"))
	}
	if good == len(aus) {
		attention = strings.TrimSuffix(here, ".") + ", but something needs a look."
	}
	return f.close(map[Verdict]string{
		Good:      here,
		Attention: attention,
		Bad:       "No: something is damaged, missing or out of service. What and where is listed here.",
	})
}

func (s Sources) diskFacts(f *finding) {
	var disks []DiskRow
	if s.Disks != nil {
		disks = s.Disks()
	}
	if len(disks) == 0 {
		f.add(Attention, "disks", "", "Nothing is known about the disks.")
		return
	}
	good := 0
	for _, d := range disks {
		name := d.Path
		if d.Serial != "" {
			name += " (serial number " + d.Serial + ")"
		}
		switch {
		case d.Fault != "" || d.State != DiskOK:
			f.add(Bad, "disks", "", "Disk %s: %s.", name, strings.TrimSuffix(cmp.Or(d.Fault, d.State), "."))
		case d.Level == DiskFull:
			f.add(Bad, "disks", "", "Disk %s is full: %s free. Nothing more is collected on it.", name, FormatBytes(int64(d.Free)))
		case d.Level == DiskLow:
			f.add(Attention, "disks", "", "Disk %s is nearly full: %s free.", name, FormatBytes(int64(d.Free)))
		case d.Total == 0:
			f.add(Attention, "disks", "", "Disk %s: how much is free is not known.", name)
		default:
			good++
		}
	}
	if good == len(disks) {
		f.add(Good, "disks", "", "%s in order.", of(good, good, "disk", "is", "are"))
	}
}

// network looks at peers and at how the latest polls and votes ended.
func (s Sources) network(now time.Time) Answer {
	f := &finding{Answer{Question: QuestionNetwork}}
	box := s.box()
	if s.Box != nil && !box.Polling {
		f.add(Attention, "config", "", "Calling polls is switched off.")
	}
	var peers []PeerRow
	if s.Peers != nil {
		peers = s.Peers()
	}
	var heard []PeerRow
	for _, p := range peers {
		if !p.LastMessage.IsZero() && now.Sub(p.LastMessage) <= heardWithin {
			heard = append(heard, p)
		}
	}
	young := !box.Started.IsZero() && now.Sub(box.Started) < settling
	switch {
	case len(peers) == 0:
		f.add(Bad, "peers", "", "No peer is known. The network's configuration should name some.")
	case len(heard) == 0 && young:
		f.add(Attention, "peers", "", "No peer has been heard of in the %s since the start.", now.Sub(box.Started).Round(time.Minute))
	case len(heard) == 0:
		f.add(Bad, "peers", "", "None of the %s has been heard of within two weeks. Check the network and its firewall.", count(len(peers), "known peer"))
	case box.Quorum > 0 && len(heard) < box.Quorum:
		f.add(Attention, "peers", "", "%s heard of within two weeks; a poll needs %s.", of(len(heard), len(peers), "peer", "was", "were"), count(box.Quorum, "vote"))
	case box.Quorum == 0:
		f.add(Attention, "peers", "", "%s heard of within two weeks; how many a poll needs is not known.", of(len(heard), len(peers), "peer", "was", "were"))
	default:
		f.add(Good, "peers", "", "%s heard of within two weeks.", of(len(heard), len(peers), "peer", "was", "were"))
	}
	n := 0
	for _, p := range peers {
		if p.Configured && p.LastMessage.IsZero() && !young {
			if n++; n <= listed {
				fault := ""
				if p.Fault != "" {
					fault = " (" + strings.TrimSuffix(p.Fault, ".") + ")"
				}
				f.add(Attention, "peers", "", "Never heard of: %s%s.", p.Peer, fault)
			}
		}
	}
	if n > listed {
		f.add(Attention, "peers", "", "And %s more never heard of.", FormatInt(int64(n-listed)))
	}

	s.pollFacts(f)
	if s.Votes != nil {
		if votes, err := s.Votes(Query{Limit: recentPolls}); err == nil {
			done := 0
			var last time.Time
			for _, v := range votes {
				if v.Status == "Complete" || v.Status == "Vote Accepted" || v.Status == "Voted" {
					done++
					if t := cmpTime(v.Ended, v.Started); t.After(last) {
						last = t
					}
				}
			}
			if done > 0 {
				f.add(Good, "votes", "", "This node voted in the polls of others, last %s.", FormatTime(last))
			}
		}
	}
	return f.close(map[Verdict]string{
		Good:      "Yes: the peers answer, and polls reach their quorum.",
		Attention: "Not fully, or it is not known yet.",
		Bad:       "No: this node cannot work with the others.",
	})
}

// pollFacts tells how the latest polls of ours ended.
func (s Sources) pollFacts(f *finding) {
	if s.Polls == nil {
		f.add(Attention, "polls", "", "Nothing is known about polls.")
		return
	}
	polls, err := s.Polls(Query{Limit: recentPolls})
	if err != nil {
		f.add(Attention, "polls", "", "The history of polls cannot be read: %v.", err)
		return
	}
	ended, complete, running := 0, 0, 0
	var last PollRow
	for _, p := range polls {
		switch {
		case p.Running:
			running++
			continue
		case p.Status == "Complete":
			complete++
		}
		ended++
		if p.Ended.After(last.Ended) {
			last = p
		}
	}
	switch {
	case ended == 0 && running == 0:
		f.add(Attention, "polls", "", "No poll has been called yet, so it is not known whether polls work.")
	case ended == 0:
		f.add(Attention, "polls", "", "The first poll is running, so it is not known yet whether polls work.")
	case last.Status != "Complete":
		f.add(Attention, "polls", last.Key, "The last poll, of %s, ended %s with: %s.", last.Name, FormatTime(last.Ended), last.Status)
		fallthrough
	default:
		v := Good
		if complete == 0 {
			v = Attention
		}
		f.add(v, "polls", "", "%s complete; the last one ended %s.", of(complete, ended, "recent poll", "was", "were"), FormatTime(last.Ended))
	}
}

// repaired looks at the history of repairs.
func (s Sources) repaired() Answer {
	f := &finding{Answer{Question: QuestionRepairs}}
	if s.Repairs == nil {
		f.add(Attention, "repairs", "", "Nothing is known about repairs.")
		return f.close(map[Verdict]string{Attention: "It is not known."})
	}
	repairs, err := s.Repairs(Query{Limit: MaxLimit})
	if err != nil {
		f.add(Attention, "repairs", "", "The history of repairs cannot be read: %v.", err)
		return f.close(map[Verdict]string{Attention: "It is not known: the history of repairs cannot be read."})
	}
	verified := 0
	var last RepairRow
	settled := map[string]bool{} // by collection and URL: the newest repair decides
	open := 0
	for _, r := range repairs { // newest first
		if r.Result == RepairVerified {
			if verified++; verified == 1 {
				last = r
			}
		}
		key := string(r.AU) + "\x00" + r.URL
		if settled[key] {
			continue
		}
		settled[key] = true
		if r.Result != RepairVerified {
			if open++; open <= listed {
				f.add(Attention, "repairs", "", "%s: %s in %s, %s%s.", repairWords(r.Result), r.URL, r.Name, FormatTime(r.At), because(r.Reason))
			}
		}
	}
	if open > listed {
		f.add(Attention, "repairs", "", "And %s more that were not put right.", FormatInt(int64(open-listed)))
	}
	if verified > 0 {
		more := ""
		if len(repairs) >= MaxLimit {
			more = " among the latest records"
		}
		f.add(Good, "repairs", "", "%s repaired and confirmed by a poll%s. Last: %s in %s, from %s, %s.", count(verified, "copy", "copies"), more,
			last.URL, last.Name, source(last), FormatTime(last.At))
		return f.close(map[Verdict]string{
			Good:      fmt.Sprintf("Yes, %s, and polls confirmed it.", times(verified)),
			Attention: fmt.Sprintf("Yes, %s with success, but not everything could be put right.", times(verified)),
		})
	}
	if open > 0 {
		return f.close(map[Verdict]string{Attention: "Not with success: repairs were tried, and none was confirmed."})
	}
	complete, err := s.completePolls()
	switch {
	case err != nil:
		f.add(Attention, "polls", "", "The history of polls cannot be read: %v.", err)
	case complete == 0:
		f.add(Attention, "polls", "", "No poll has been completed, so no damage could have been found.")
	default:
		f.add(Good, "polls", "", "%s completed without finding anything to repair.", count(complete, "recent poll"))
	}
	return f.close(map[Verdict]string{
		Good:      "No, and no poll has found a copy that needed it.",
		Attention: "No, but it is not known whether any copy needs it.",
	})
}

// completePolls counts recent complete polls.
func (s Sources) completePolls() (int, error) {
	if s.Polls == nil {
		return 0, nil
	}
	polls, err := s.Polls(Query{Limit: DefaultLimit})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range polls {
		if !p.Running && p.Status == "Complete" {
			n++
		}
	}
	return n, nil
}

func (s Sources) box() BoxRow {
	if s.Box == nil {
		return BoxRow{}
	}
	return s.Box()
}

func repairWords(result string) string {
	switch result {
	case RepairFailed:
		return "No copy could be had"
	case RepairDisputed:
		return "The new copy is disputed"
	}
	return "Repair " + result
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strings.TrimSuffix(reason, ".") + ")"
}

func source(r RepairRow) string {
	if r.From == "" {
		return "the publisher"
	}
	return string(r.From)
}

// count is a number with its noun.
func count(n int, noun string, plural ...string) string {
	if n == 1 {
		return "1 " + noun
	}
	if len(plural) > 0 {
		noun = plural[0]
	} else {
		noun += "s"
	}
	return FormatInt(int64(n)) + " " + noun
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return count(n, "time")
}

// of is a share with its noun and verb: "2 of 3 peers were", "all 3 peers were", "the only
// peer was".
func of(n, all int, noun, singular, plural string) string {
	switch {
	case n == all && all == 1:
		return "The only " + noun + " " + singular
	case n == all:
		return "All " + count(all, noun) + " " + plural
	case n == 0:
		return "None of " + count(all, noun) + " " + singular
	case n == 1:
		return "1 of " + count(all, noun) + " " + singular
	}
	return FormatInt(int64(n)) + " of " + count(all, noun) + " " + plural
}

func cmpTime(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}
