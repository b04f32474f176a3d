// Package titledb reads title lists: which archival units a network has, with their names,
// plugins, parameters and attributes (titledb.md 1).
//
// A title list is a configuration file whose keys are all below org.lockss.title or
// org.lockss.titleSet; package config has flattened it before it comes here.
//
//	org.lockss.title.<entry>.title                 name of the AU; required
//	org.lockss.title.<entry>.plugin                plugin id; required
//	org.lockss.title.<entry>.param.<n>.key, .value parameter; <n> is any text
//	org.lockss.title.<entry>.attributes.<name>     attribute
//	org.lockss.title.<entry>.<other>               property: journalTitle, issn, estSize, …
//
// One bad entry never spoils the others. The id of an entry has no meaning beyond holding
// its keys together.
package titledb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// prefixes of the keys of a title list.
const (
	titlePrefix = "org.lockss.title."
	setPrefix   = "org.lockss.titleSet."
)

// maxEntries limits one list; the largest public networks have some 100000 AUs.
const maxEntries = 2_000_000

// A Title is one AU of a title list.
type Title struct {
	Key        string // of the entry, for messages only
	Name       string // of the AU
	Journal    string // title it belongs to, "" if not said
	PluginID   string
	Params     map[string]string
	Attributes map[string]string
	Properties map[string]string // all other keys: issn, type, estSize, pluginVersion, …
}

// An EntryError is a fault of one entry. Skipped tells that the entry is not used; otherwise
// only the part named is.
type EntryError struct {
	Entry   string
	Skipped bool
	Err     error
}

func (e *EntryError) Error() string {
	if e.Skipped {
		return fmt.Sprintf("title list entry %s skipped: %v", e.Entry, e.Err)
	}
	return fmt.Sprintf("title list entry %s: %v", e.Entry, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// FromProps reads the titles of a flattened configuration, sorted by entry id; other keys
// are ignored. The errors are *EntryError, one for each fault.
func FromProps(props map[string]string) ([]Title, []error) {
	type raw struct {
		t          *Title
		keys, vals map[string]string // of parameters, by number
	}
	entries := map[string]*raw{}
	var faults []error
	for k, v := range props {
		rest, ok := strings.CutPrefix(k, titlePrefix)
		if !ok {
			continue
		}
		id, sub, ok := strings.Cut(rest, ".")
		if !ok || id == "" || sub == "" {
			faults = append(faults, &EntryError{rest, false, fmt.Errorf("key %s belongs to no entry", k)})
			continue
		}
		e := entries[id]
		if e == nil {
			if len(entries) >= maxEntries {
				return nil, []error{fmt.Errorf("title list has more than %d entries", maxEntries)}
			}
			e = &raw{
				t:    &Title{Key: id, Params: map[string]string{}, Attributes: map[string]string{}, Properties: map[string]string{}},
				keys: map[string]string{}, vals: map[string]string{},
			}
			entries[id] = e
		}
		head, tail, nested := strings.Cut(sub, ".")
		switch {
		case sub == "title":
			e.t.Name = v
		case sub == "plugin":
			e.t.PluginID = strings.TrimSpace(v)
		case sub == "journalTitle":
			e.t.Journal = v
		case head == "param" && nested:
			if n, ok := strings.CutSuffix(tail, ".key"); ok {
				e.keys[n] = v
			} else if n, ok := strings.CutSuffix(tail, ".value"); ok {
				e.vals[n] = v
			}
		case head == "attributes" && nested:
			e.t.Attributes[tail] = v
		default:
			e.t.Properties[sub] = v
		}
	}
	var titles []Title
	seen := map[string]string{} // identity to entry
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		e := entries[id]
		fault := func(skip bool, format string, args ...any) {
			faults = append(faults, &EntryError{id, skip, fmt.Errorf(format, args...)})
		}
		if e.t.Name == "" || e.t.PluginID == "" {
			what := "title"
			if e.t.Name != "" {
				what = "plugin"
			}
			fault(true, "it has no %s; add the key %s%s.%s", what, titlePrefix, id, what)
			continue
		}
		for _, n := range slices.Sorted(maps.Keys(e.keys)) {
			v, ok := e.vals[n]
			if !ok {
				fault(false, "parameter %s (%s) has no value and is ignored", n, e.keys[n])
				continue
			}
			if old, twice := e.t.Params[e.keys[n]]; twice && old != v {
				fault(false, "parameter %s has two values, %q and %q; the latter counts", e.keys[n], old, v)
			}
			e.t.Params[e.keys[n]] = v
		}
		for _, n := range slices.Sorted(maps.Keys(e.vals)) {
			if _, ok := e.keys[n]; !ok {
				fault(false, "parameter %s has a value but no key and is ignored", n)
			}
		}
		same := identity(e.t)
		if first, twice := seen[same]; twice {
			fault(true, "the same plugin and parameters as entry %s", first)
			continue
		}
		seen[same] = id
		titles = append(titles, *e.t)
	}
	slices.SortStableFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return titles, faults
}

// identity is equal for entries of the same plugin and parameters.
func identity(t *Title) string {
	var b strings.Builder
	b.WriteString(t.PluginID)
	for _, k := range slices.Sorted(maps.Keys(t.Params)) {
		fmt.Fprintf(&b, "\x00%s\x00%s", k, t.Params[k])
	}
	return b.String()
}

// Merge appends the titles of a list loaded later; those that are in first already are
// dropped and reported (titledb.md 1.2, "Uniqueness").
func Merge(first, later []Title) ([]Title, []error) {
	seen := map[string]bool{}
	for i := range first {
		seen[identity(&first[i])] = true
	}
	out := slices.Clone(first)
	var faults []error
	for _, t := range later {
		id := identity(&t)
		if seen[id] {
			faults = append(faults, &EntryError{t.Key, true, errors.New("the same plugin and parameters as an entry loaded before")})
			continue
		}
		seen[id] = true
		out = append(out, t)
	}
	return out, faults
}

// CheckKeys refuses a file of org.lockss.titleDbs with any key that does not belong to a
// title list (titledb.md 1.6): such a file could set parameters of the node.
func CheckKeys(props map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(props)) {
		if !strings.HasPrefix(k, titlePrefix) && !strings.HasPrefix(k, setPrefix) {
			return fmt.Errorf("title list has the key %s, which is neither below org.lockss.title nor org.lockss.titleSet; the whole file is not used", k)
		}
	}
	return nil
}

// Publisher is the publisher's name, made up from the title if none is said.
func (t *Title) Publisher() string {
	if s := t.Attributes["publisher"]; s != "" {
		return s
	}
	if s := t.Properties["publisher.name"]; s != "" {
		return s
	}
	return "Publisher of [" + t.JournalName() + "]"
}

// Provider is who delivers the content: the publisher unless said otherwise.
func (t *Title) Provider() string {
	if s := t.Attributes["provider"]; s != "" {
		return s
	}
	return t.Publisher()
}

// JournalName is the journal, book or series, made up from the AU's name if none is said.
func (t *Title) JournalName() string {
	if t.Journal != "" {
		return t.Journal
	}
	return "Title of [" + t.Name + "]"
}

// Type is the kind of publication: journal unless said otherwise.
func (t *Title) Type() string {
	if s := t.Properties["type"]; s != "" {
		return s
	}
	return "journal"
}

// EstimatedSize is the size the list expects, in bytes; 0 if it says none.
func (t *Title) EstimatedSize() int64 {
	s := strings.TrimSpace(t.Properties["estSize"])
	unit := 1.0
	for suffix, u := range map[string]float64{"KB": 1e3, "MB": 1e6} {
		if rest, ok := strings.CutSuffix(strings.ToUpper(s), suffix); ok {
			s, unit = strings.TrimSpace(rest), u
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0) || f*unit > 1<<60 {
		return 0
	}
	return int64(f * unit)
}

// Down says whether the list declares the publisher's site gone.
func (t *Title) Down() bool {
	for _, k := range []string{"pub_down", "pub_never"} {
		switch strings.ToLower(t.Params[k]) {
		case "true", "yes", "on", "1":
			return true
		}
	}
	return false
}

// NoPoll says whether polls on this AU are never called.
func (t *Title) NoPoll() bool { return strings.Contains(t.Attributes["flags"], "nopoll") }
