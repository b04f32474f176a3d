package config

import (
	"maps"
	"slices"
	"strings"
)

// Snapshot is one whole configuration: every parameter with its value and where it was set
// last. It never changes.
type Snapshot struct {
	values  map[string]string
	origins map[string]string
}

// NewSnapshot makes a configuration from parameters that all come from one place.
func NewSnapshot(values map[string]string, origin string) *Snapshot {
	s := &Snapshot{values: map[string]string{}, origins: map[string]string{}}
	s.merge(values, origin)
	return s
}

func (s *Snapshot) merge(values map[string]string, origin string) {
	for k, v := range values {
		s.set(k, v, origin)
	}
}

func (s *Snapshot) set(name, value, origin string) {
	s.values[name] = value
	s.origins[name] = origin
}

// Get gives a parameter's text and whether it is set at all.
func (s *Snapshot) Get(name string) (string, bool) {
	v, ok := s.values[name]
	return v, ok
}

// Origin names the file, URL or rule that set the parameter last; "" when it is not set.
func (s *Snapshot) Origin(name string) string { return s.origins[name] }

// List gives a ";" list.
func (s *Snapshot) List(name string) []string { return SplitList(s.values[name]) }

// Names gives all parameters that are set, sorted.
func (s *Snapshot) Names() []string { return slices.Sorted(maps.Keys(s.values)) }

// Equal tells whether both hold the same parameters.
func (s *Snapshot) Equal(o *Snapshot) bool { return o != nil && maps.Equal(s.values, o.values) }

// Unknown gives the org.lockss parameters that are set and that nothing reads: neither
// named in known nor below one of the prefixes. Other keys (java.*, for example) belong to
// other software and are not reported.
func (s *Snapshot) Unknown(known map[string]string, prefixes ...string) []string {
	var names []string
next:
	for _, k := range s.Names() {
		if _, ok := known[k]; ok || !strings.HasPrefix(k, "org.lockss.") {
			continue
		}
		for _, p := range prefixes {
			if strings.HasPrefix(k, p) {
				continue next
			}
		}
		names = append(names, k)
	}
	return names
}

// Under gives the parameters whose names start with prefix, with their full names.
func (s *Snapshot) Under(prefix string) map[string]string {
	sub := map[string]string{}
	for k, v := range s.values {
		if strings.HasPrefix(k, prefix) {
			sub[k] = v
		}
	}
	return sub
}

// With gives a configuration in which the given parameters are set, too.
func (s *Snapshot) With(values map[string]string, origin string) *Snapshot {
	c := &Snapshot{values: maps.Clone(s.values), origins: maps.Clone(s.origins)}
	c.merge(values, origin)
	return c
}
