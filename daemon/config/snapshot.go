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
	files   map[string]map[string]string // the box's own files, by name, before anything overwrote them
	writes  int                          // state of these files, see Loader.Latest
}

// NewSnapshot makes a configuration from parameters that all come from one place.
func NewSnapshot(values map[string]string, origin string) *Snapshot {
	s := &Snapshot{values: map[string]string{}, origins: map[string]string{}, files: map[string]map[string]string{}}
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

// Equal tells whether both hold the same parameters and files.
func (s *Snapshot) Equal(o *Snapshot) bool {
	return o != nil && maps.Equal(s.values, o.values) && maps.EqualFunc(s.files, o.files, maps.Equal)
}

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

// File gives what one of the box's own files says ("au.txt"), whatever other sources set.
func (s *Snapshot) File(name string) map[string]string { return s.files[name] }

// Changed gives the names of all parameters that differ between s and o, sorted.
func (s *Snapshot) Changed(o *Snapshot) []string {
	names := map[string]bool{}
	for _, m := range []map[string]string{s.values, o.values} {
		for k := range m {
			v, ok := s.values[k]
			w, ok2 := o.values[k]
			if v != w || ok != ok2 {
				names[k] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// WithFile gives a configuration in which one of the box's own files has these parameters,
// too.
func (s *Snapshot) WithFile(name string, values map[string]string, origin string) *Snapshot {
	c := &Snapshot{values: maps.Clone(s.values), origins: maps.Clone(s.origins), files: maps.Clone(s.files), writes: s.writes}
	file := maps.Clone(s.files[name])
	if file == nil {
		file = map[string]string{}
	}
	maps.Copy(file, values)
	c.files[name] = file
	c.merge(values, origin)
	return c
}
