package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Modules are the module tables of one kernel, as depmod makes them.
type Modules struct {
	Release string // as uname -r

	dir     string
	path    map[string]string   // module → path below dir
	deps    map[string][]string // module → modules it needs
	soft    map[string][]string // module → names or aliases to load before it
	alias   []alias
	builtin map[string]bool
	tables  map[string][]byte // builtin tables, kept whole
}

type alias struct{ pattern, module string }

const maxTable = 64 << 20 // bytes of one table of depmod

// OpenModules reads the tables below root, the tree of a kernel package.
func OpenModules(root string) (*Modules, error) {
	var found []string
	for _, base := range []string{"lib/modules/*", "usr/lib/modules/*"} {
		g, err := filepath.Glob(filepath.Join(root, base))
		if err != nil {
			return nil, err
		}
		found = append(found, g...)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s: %d kernels below lib/modules, want one", root, len(found))
	}
	m := &Modules{Release: filepath.Base(found[0]), dir: found[0], path: map[string]string{}, deps: map[string][]string{},
		soft: map[string][]string{}, builtin: map[string]bool{}, tables: map[string][]byte{}}
	for _, t := range []struct {
		name string
		line func(words []string) bool
	}{
		{"modules.dep", m.readDep},
		{"modules.softdep", m.readSoft},
		{"modules.alias", m.readAlias},
		{"modules.builtin", func(w []string) bool { m.builtin[ModuleName(w[0])] = true; return true }},
	} {
		b, err := readTable(filepath.Join(m.dir, t.name))
		if err != nil {
			return nil, err
		}
		m.tables[t.name] = b
		for i, line := range strings.Split(string(b), "\n") {
			w := strings.Fields(line)
			if len(w) == 0 || strings.HasPrefix(w[0], "#") {
				continue
			}
			if !t.line(w) {
				return nil, fmt.Errorf("%s:%d: cannot be read", filepath.Join(m.dir, t.name), i+1)
			}
		}
	}
	return m, nil
}

func readTable(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxTable {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxTable)
	}
	return os.ReadFile(path)
}

// readDep reads "path: path path …".
func (m *Modules) readDep(w []string) bool {
	p, ok := strings.CutSuffix(w[0], ":")
	if !ok || !filepath.IsLocal(p) {
		return false
	}
	name := ModuleName(p)
	m.path[name] = p
	for _, d := range w[1:] {
		m.deps[name] = append(m.deps[name], ModuleName(d))
	}
	return true
}

// readSoft reads "softdep module pre: a b post: c". Only what must be loaded before counts:
// it is what a module asks for by name while it starts, and there is no modprobe to answer.
func (m *Modules) readSoft(w []string) bool {
	if len(w) < 2 {
		return false
	}
	pre := false
	for _, d := range w[2:] {
		switch d {
		case "pre:":
			pre = true
		case "post:":
			pre = false
		default:
			if pre {
				name := ModuleName(w[1])
				m.soft[name] = append(m.soft[name], d)
			}
		}
	}
	return true
}

// readAlias reads "alias pattern module". A pattern may hold spaces.
func (m *Modules) readAlias(w []string) bool {
	if len(w) < 3 || w[0] != "alias" {
		return false
	}
	m.alias = append(m.alias, alias{strings.Join(w[1:len(w)-1], " "), ModuleName(w[len(w)-1])})
	return true
}

// ModuleName makes the name of a module from its file: "kernel/fs/xfs/xfs.ko.xz" is "xfs",
// and "-" counts as "_".
func ModuleName(file string) string {
	base := filepath.Base(file)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// needs lists what must be loaded before a module: its dependencies, and its soft ones as
// far as this kernel has them as modules.
//
// A soft dependency that is an alias of several modules (crypto-crc32c) stands for the
// generic one: it works on every machine, and a faster one is loaded by the CPU's own alias.
func (m *Modules) needs(name string) []string {
	out := append([]string(nil), m.deps[name]...)
	for _, s := range m.soft[name] {
		if n := ModuleName(s); m.path[n] != "" {
			out = append(out, n)
			continue
		}
		var found []string
		for _, a := range m.alias {
			if a.pattern == s {
				found = append(found, a.module)
			}
		}
		sort.Slice(found, func(i, j int) bool {
			gi, gj := strings.HasSuffix(found[i], "_generic"), strings.HasSuffix(found[j], "_generic")
			if gi != gj {
				return gi
			}
			return found[i] < found[j]
		})
		if len(found) > 0 {
			out = append(out, found[0])
		}
	}
	return out
}

// Select returns the modules of the roots and all they need, sorted. Roots built into the
// kernel are left out; the error names all that this kernel does not have.
func (m *Modules) Select(roots []string) ([]string, error) {
	chosen := map[string]bool{}
	var missing []string
	var visit func(name string)
	visit = func(name string) {
		if chosen[name] || m.builtin[name] {
			return
		}
		if m.path[name] == "" {
			missing = append(missing, name)
			return
		}
		chosen[name] = true
		for _, n := range m.needs(name) {
			visit(n)
		}
	}
	for _, r := range roots {
		visit(ModuleName(r))
	}
	names := make([]string, 0, len(chosen))
	for n := range chosen {
		names = append(names, n)
	}
	sort.Strings(names)
	if len(missing) > 0 {
		sort.Strings(missing)
		return names, &MissingError{Release: m.Release, Modules: missing}
	}
	return names, nil
}

// MissingError names modules that a kernel does not have.
type MissingError struct {
	Release string
	Modules []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("kernel %s has no modules %s", e.Release, strings.Join(e.Modules, " "))
}

// AddTo puts the modules into /lib/modules/<release>/ of a tree, as shipped, with tables
// that name only them:
//
//	modules.dep      "path: path …", what each needs directly or not, the last first to load;
//	                 soft dependencies are among them
//	modules.alias    "alias pattern module"
//	modules.builtin  paths of what is built in
//
// All are sorted, so that another depmod makes no difference.
func (m *Modules) AddTo(t *Tree, names []string) error {
	chosen := map[string]bool{}
	for _, n := range names {
		chosen[n] = true
	}
	base := "/lib/modules/" + m.Release + "/"
	var dep, ali bytes.Buffer
	paths := map[string]string{}
	var order []string
	for n := range chosen {
		p, ok := m.path[n]
		if !ok {
			return &MissingError{Release: m.Release, Modules: []string{n}}
		}
		b, err := os.ReadFile(filepath.Join(m.dir, p))
		if err != nil {
			return err
		}
		if err := t.File(base+p, 0o644, b); err != nil {
			return err
		}
		paths[p] = n
		order = append(order, p)
	}
	sort.Strings(order)
	for _, p := range order {
		fmt.Fprintf(&dep, "%s:", p)
		load, err := m.loadOrder(paths[p])
		if err != nil {
			return err
		}
		for i := len(load) - 1; i >= 0; i-- {
			fmt.Fprintf(&dep, " %s", m.path[load[i]])
		}
		dep.WriteByte('\n')
	}
	var lines []string
	for _, a := range m.alias {
		if chosen[a.module] {
			lines = append(lines, "alias "+a.pattern+" "+a.module+"\n")
		}
	}
	sort.Strings(lines)
	for i, l := range lines {
		if i == 0 || l != lines[i-1] {
			ali.WriteString(l)
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"modules.dep", dep.Bytes()},
		{"modules.alias", ali.Bytes()},
		{"modules.builtin", m.tables["modules.builtin"]},
	} {
		if err := t.File(base+f.name, 0o644, f.data); err != nil {
			return err
		}
	}
	return nil
}

// loadOrder lists what a module needs in the order of loading, without itself.
func (m *Modules) loadOrder(name string) ([]string, error) {
	var out []string
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(n string) error
	visit = func(n string) error {
		switch state[n] {
		case 1:
			return errors.New("modules need each other: " + n)
		case 2:
			return nil
		}
		if m.path[n] == "" {
			return nil // built in
		}
		state[n] = 1
		need := m.needs(n)
		sort.Strings(need)
		for _, d := range need {
			if err := visit(d); err != nil {
				return err
			}
		}
		state[n] = 2
		out = append(out, n)
		return nil
	}
	if err := visit(name); err != nil {
		return nil, err
	}
	return out[:len(out)-1], nil
}
