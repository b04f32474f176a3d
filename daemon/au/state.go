package au

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// stateFile is the name of the state in the unit's directory.
const stateFile = "#au_state.xml"

const stateRoot = "org.lockss.state.AuState"

// Values of State.AccessType and State.HasSubstance.
const (
	OpenAccess   = "OpenAccess"
	Subscription = "Subscription"

	SubstanceUnknown = "Unknown"
	SubstanceYes     = "Yes"
	SubstanceNo      = "No"
)

// State is what is remembered of a unit (repository.md 8.1). A zero time is "never", -1 in
// the file; numbers that are not known are -1.
type State struct {
	LastCrawl          time.Time // end of the last successful crawl
	LastCrawlAttempt   time.Time // start of the last crawl
	LastCrawlResult    int       // crawl.md 3
	LastCrawlResultMsg string

	LastTopLevelPoll time.Time // end of the last poll that was completed
	LastPollStart    time.Time
	LastPollResult   int
	PollDuration     time.Duration // average of the last two

	ClockssStatus      int
	V3Agreement        float64 // of the last poll, 0 to 1; -1: none
	HighestV3Agreement float64

	AccessType       string // OpenAccess, Subscription, "" not known
	HasSubstance     string
	SubstanceVersion string // feature version of the plugin when HasSubstance was found
	MetadataVersion  string

	LastMetadataIndex time.Time
	LastContentChange time.Time // when a new version was last stored
	LastPoPPoll       time.Time
	LastPoPPollResult int
	LastLocalHashScan time.Time

	AgreePeersLastPoR      int
	WillingRepairers       int
	CurrentSuspectVersions int

	CDNStems []string // URL stems learnt in crawls

	doc []element // the file as it was read, in its order
}

// Crawled says whether a crawl of the unit has ever succeeded.
func (s State) Crawled() bool { return !s.LastCrawl.IsZero() }

// An element of the file; raw is set for those that mean nothing to us, and kept.
type element struct{ name, raw string }

// newState is the state of a unit that has no file.
func newState() State {
	return State{
		LastCrawlResult: -1, LastPollResult: -1, LastPoPPollResult: -1,
		V3Agreement: -1, HighestV3Agreement: -1, HasSubstance: SubstanceUnknown,
		AgreePeersLastPoR: -1, WillingRepairers: -1, CurrentSuspectVersions: -1,
	}
}

// A field is an element of the file whose meaning is known.
type field struct {
	name string
	get  func(*State) (text string, present bool)
	set  func(*State, string) error
}

// fields in the order in which 1.x writes them.
var fields = []field{
	timeField("lastCrawlTime", func(s *State) *time.Time { return &s.LastCrawl }),
	timeField("lastCrawlAttempt", func(s *State) *time.Time { return &s.LastCrawlAttempt }),
	textField("lastCrawlResultMsg", func(s *State) *string { return &s.LastCrawlResultMsg }),
	intField("lastCrawlResult", func(s *State) *int { return &s.LastCrawlResult }),
	timeField("lastTopLevelPoll", func(s *State) *time.Time { return &s.LastTopLevelPoll }),
	timeField("lastPollStart", func(s *State) *time.Time { return &s.LastPollStart }),
	intField("lastPollResult", func(s *State) *int { return &s.LastPollResult }),
	{
		"pollDuration",
		func(s *State) (string, bool) { return strconv.FormatInt(s.PollDuration.Milliseconds(), 10), true },
		func(s *State, t string) error {
			ms, err := strconv.ParseInt(t, 10, 64)
			s.PollDuration = time.Duration(ms) * time.Millisecond
			return err
		},
	},
	intField("clockssSubscriptionStatus", func(s *State) *int { return &s.ClockssStatus }),
	floatField("v3Agreement", func(s *State) *float64 { return &s.V3Agreement }),
	floatField("highestV3Agreement", func(s *State) *float64 { return &s.HighestV3Agreement }),
	textField("accessType", func(s *State) *string { return &s.AccessType }),
	textField("hasSubstance", func(s *State) *string { return &s.HasSubstance }),
	textField("substanceVersion", func(s *State) *string { return &s.SubstanceVersion }),
	textField("metadataVersion", func(s *State) *string { return &s.MetadataVersion }),
	timeField("lastMetadataIndex", func(s *State) *time.Time { return &s.LastMetadataIndex }),
	{
		"lastContentChange", // never is 0 here
		func(s *State) (string, bool) { return millis(s.LastContentChange, 0), true },
		func(s *State, t string) error {
			ms, err := strconv.ParseInt(t, 10, 64)
			if s.LastContentChange = time.UnixMilli(ms); ms <= 0 {
				s.LastContentChange = time.Time{}
			}
			return err
		},
	},
	timeField("lastPoPPoll", func(s *State) *time.Time { return &s.LastPoPPoll }),
	intField("lastPoPPollResult", func(s *State) *int { return &s.LastPoPPollResult }),
	timeField("lastLocalHashScan", func(s *State) *time.Time { return &s.LastLocalHashScan }),
	intField("numAgreePeersLastPoR", func(s *State) *int { return &s.AgreePeersLastPoR }),
	intField("numWillingRepairers", func(s *State) *int { return &s.WillingRepairers }),
	intField("numCurrentSuspectVersions", func(s *State) *int { return &s.CurrentSuspectVersions }),
}

// cdnStems is the one element that is a list.
const cdnStems = "cdnStems"

func timeField(name string, at func(*State) *time.Time) field {
	return field{name,
		func(s *State) (string, bool) { return millis(*at(s), -1), true },
		func(s *State, t string) error {
			ms, err := strconv.ParseInt(t, 10, 64)
			if *at(s) = time.UnixMilli(ms); ms < 0 {
				*at(s) = time.Time{}
			}
			return err
		}}
}

// millis writes a time in ms since 1970; never is the text of "no such time".
func millis(t time.Time, never int64) string {
	if t.IsZero() {
		return strconv.FormatInt(never, 10)
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

func intField(name string, at func(*State) *int) field {
	return field{name,
		func(s *State) (string, bool) { return strconv.Itoa(*at(s)), true },
		func(s *State, t string) (err error) { *at(s), err = strconv.Atoi(t); return err }}
}

func textField(name string, at func(*State) *string) field {
	return field{name,
		func(s *State) (string, bool) { return *at(s), *at(s) != "" },
		func(s *State, t string) error { *at(s) = t; return nil }}
}

func floatField(name string, at func(*State) *float64) field {
	return field{name,
		func(s *State) (string, bool) { return javaDouble(*at(s)), true },
		func(s *State, t string) (err error) { *at(s), err = strconv.ParseFloat(t, 64); return err }}
}

// javaDouble writes f as Java does: "1.0", "0.9583333333333334", "1.0E-4".
func javaDouble(f float64) string {
	if f != 0 && (f < 1e-3 && f > -1e-3 || f >= 1e7 || f <= -1e7) {
		mant, exp, _ := strings.Cut(strconv.FormatFloat(f, 'E', -1, 64), "E")
		if !strings.Contains(mant, ".") {
			mant += ".0"
		}
		n, _ := strconv.Atoi(exp) // as FormatFloat wrote it
		return mant + "E" + strconv.Itoa(n)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// parseState reads a state file. Elements that it does not know are kept for appendState.
func parseState(b []byte) (State, error) {
	s := newState()
	s.LastCrawl = time.UnixMilli(0) // what an absent element means to 1.x (repository.md 8.1)
	d := xml.NewDecoder(bytes.NewReader(b))
	depth, start := 0, int64(0)
	var name string
	seenRoot := false
	for {
		at := d.InputOffset()
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			if !seenRoot {
				return State{}, fmt.Errorf("%s: no element %s", stateFile, stateRoot)
			}
			return s, nil
		}
		if err != nil {
			return State{}, fmt.Errorf("%s: %w", stateFile, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			switch depth {
			case 0:
				if t.Name.Local != stateRoot {
					return State{}, fmt.Errorf("%s: root is %s, want %s", stateFile, t.Name.Local, stateRoot)
				}
				seenRoot = true
			case 1:
				name, start = t.Name.Local, at
			}
			depth++
		case xml.EndElement:
			if depth--; depth == 1 {
				if err := s.read(name, string(b[start:d.InputOffset()])); err != nil {
					return State{}, fmt.Errorf("%s: %s: %w", stateFile, name, err)
				}
			}
		}
	}
}

// read takes one element of the file.
func (s *State) read(name, raw string) error {
	if name == cdnStems {
		var list struct {
			Strings []string `xml:"string"`
		}
		s.doc = append(s.doc, element{name: name})
		err := xml.Unmarshal([]byte(raw), &list)
		s.CDNStems = list.Strings
		return err
	}
	for _, f := range fields {
		if f.name == name {
			var text string
			if err := xml.Unmarshal([]byte(raw), &text); err != nil {
				return err
			}
			s.doc = append(s.doc, element{name: name})
			return f.set(s, text)
		}
	}
	s.doc = append(s.doc, element{name, raw})
	return nil
}

// appendState writes the state as 1.x does. Elements keep the order in which they were read;
// new ones come where 1.x would have them.
func appendState(b []byte, s State) []byte {
	texts := map[string]string{}
	var order []string // known elements that are written
	for _, f := range fields {
		if text, ok := f.get(&s); ok {
			texts[f.name] = "<" + f.name + ">" + escape(text) + "</" + f.name + ">"
			order = append(order, f.name)
		}
	}
	if len(s.CDNStems) > 0 {
		t := "<" + cdnStems + ">\n"
		for _, stem := range s.CDNStems {
			t += "    <string>" + escape(stem) + "</string>\n"
		}
		texts[cdnStems] = t + "  </" + cdnStems + ">"
		order = append(order, cdnStems)
	}
	var out []element
	for _, e := range s.doc {
		if e.raw != "" || texts[e.name] != "" {
			out = append(out, e)
		}
	}
	after := -1 // index in out of the known element before
	for _, name := range order {
		at := -1
		for i, e := range out {
			if e.name == name && e.raw == "" {
				at = i
				break
			}
		}
		if at < 0 {
			at = after + 1
			out = append(out[:at], append([]element{{name: name}}, out[at:]...)...)
		}
		after = at
	}
	b = append(b, "<"+stateRoot+">\n"...)
	for _, e := range out {
		text := e.raw
		if text == "" {
			text = texts[e.name]
		}
		b = append(b, "  "+text+"\n"...)
	}
	return append(b, "</"+stateRoot+">"...)
}

// escape writes text for XML; characters that XML cannot have become "?".
func escape(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '&':
			b.WriteString("&amp;")
		case c == '<':
			b.WriteString("&lt;")
		case c == '>':
			b.WriteString("&gt;")
		case c == '"':
			b.WriteString("&quot;")
		case c == '\'':
			b.WriteString("&apos;")
		case c == '\r':
			b.WriteString("&#xd;")
		case c < ' ' && c != '\n' && c != '\t', c == 0xfffe, c == 0xffff:
			b.WriteByte('?')
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
