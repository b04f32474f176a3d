package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// modules are the kernel modules of the image: what each needs, and which devices want it.
//
//	modules.dep    "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz …"
//	modules.alias  "alias pci:v00008086d*sv*sd*bc*sc*i* e1000"
//
// Module names are written with underscores, whatever the file name has.
type modules struct {
	dir     string
	path    map[string]string   // below dir, by module
	needs   map[string][]string // modules, the last to be loaded first
	aliases map[string][]alias  // by the pattern's part before the first ":"

	mu     sync.Mutex
	loaded map[string]bool // tried, with or without success
	seen   map[string]bool // modaliases that were looked up
}

type alias struct{ pattern, module string }

// moduleName is the name of the module in a file: "kernel/drivers/hid/hid-generic.ko.xz"
// is hid_generic.
func moduleName(path string) string {
	n, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(n, "-", "_")
}

// readModules reads the tables in dir, "/lib/modules/<release>".
func readModules(dir string) (*modules, error) {
	m := &modules{dir: dir, path: map[string]string{}, needs: map[string][]string{}, aliases: map[string][]alias{},
		loaded: map[string]bool{}, seen: map[string]bool{}}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	for line := range strings.Lines(string(dep)) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		n := moduleName(file)
		m.path[n] = file
		for _, f := range strings.Fields(rest) {
			m.needs[n] = append(m.needs[n], moduleName(f))
		}
	}
	al, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	for line := range strings.Lines(string(al)) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "alias" {
			bus := busOf(w[1])
			m.aliases[bus] = append(m.aliases[bus], alias{w[1], strings.ReplaceAll(w[2], "-", "_")})
		}
	}
	return m, nil
}

// busOf is the part of an alias before ":", by which the table is cut into short lists. ACPI
// patterns have a star there ("acpi*:PNP0C0C:*").
func busOf(s string) string {
	bus, _, _ := strings.Cut(s, ":")
	return strings.TrimRight(bus, "*")
}

// match lists the modules that want a device, in the order of the table.
func (m *modules) match(modalias string) []string {
	var found []string
	for _, a := range m.aliases[busOf(modalias)] {
		if glob(a.pattern, modalias) {
			found = append(found, a.module)
		}
	}
	return found
}

// glob matches a shell pattern with * ? and [a-z], as modprobe does.
func glob(pattern, s string) bool {
	// back is where to go on after the last star, with one more byte under it.
	p, i, backP, backI := 0, 0, -1, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				p++
				backP, backI = p, i
				continue
			}
			if ok, width := oneByte(pattern[p:], s[i]); ok {
				p += width
				i++
				continue
			}
		}
		if backP < 0 {
			return false
		}
		backI++
		p, i = backP, backI
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// oneByte matches one byte with the head of a pattern and gives the head's width.
func oneByte(pattern string, c byte) (bool, int) {
	switch pattern[0] {
	case '?':
		return true, 1
	case '[':
		end := strings.IndexByte(pattern, ']')
		if end < 0 {
			return false, 1
		}
		set := pattern[1:end]
		not := strings.HasPrefix(set, "!") || strings.HasPrefix(set, "^")
		if not {
			set = set[1:]
		}
		in := false
		for k := 0; k < len(set); k++ {
			if k+2 < len(set) && set[k+1] == '-' {
				in = in || set[k] <= c && c <= set[k+2]
				k += 2
			} else {
				in = in || set[k] == c
			}
		}
		return in != not, end + 1
	}
	return pattern[0] == c, 1
}

// order lists a module and all it needs, each after what it needs itself. A flat list of
// direct needs in the wrong order would fail with ENOENT.
func (m *modules) order(name string) []string {
	var list []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		if seen[n] {
			return
		}
		seen[n] = true
		needs := m.needs[n]
		for k := len(needs) - 1; k >= 0; k-- {
			visit(needs[k])
		}
		list = append(list, n)
	}
	visit(strings.ReplaceAll(name, "-", "_"))
	return list
}

// load loads modules with what they need. One that is not in the image is no error: it may
// be built into the kernel.
func (m *modules) load(names ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, name := range names {
		for _, n := range m.order(name) {
			if m.loaded[n] || m.path[n] == "" {
				continue
			}
			m.loaded[n] = true
			if err := insert(filepath.Join(m.dir, m.path[n])); err != nil {
				errs = append(errs, fmt.Errorf("module %s: %w", n, err))
			}
		}
	}
	return errors.Join(errs...)
}

// insert gives a module file to the kernel, which decompresses it itself.
func insert(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		const compressed = 4 // MODULE_INIT_COMPRESSED_FILE
		flags = compressed
	}
	err = unix.FinitModule(fd, "", flags)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil // there already; or its device is not
	}
	return err
}

// coldPlug loads what the devices below root, "/sys/devices", want. It looks at each
// modalias once and tells how many modules it tried.
func (m *modules) coldPlug(root string) (int, error) {
	var wanted []string
	look := func(modalias string) {
		m.mu.Lock()
		known := modalias == "" || m.seen[modalias]
		m.seen[modalias] = true
		m.mu.Unlock()
		if !known {
			wanted = append(wanted, m.match(modalias)...)
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // a device that has just gone
		}
		if b, err := os.ReadFile(filepath.Join(path, "modalias")); err == nil {
			look(string(bytes.TrimSpace(b)))
		} else if b, err := os.ReadFile(filepath.Join(path, "uevent")); err == nil {
			if _, rest, ok := bytes.Cut(b, []byte("MODALIAS=")); ok {
				line, _, _ := bytes.Cut(rest, []byte("\n"))
				look(string(bytes.TrimSpace(line)))
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for devices: %w", err)
	}
	before := m.count()
	err = m.load(wanted...)
	return m.count() - before, err
}

func (m *modules) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.loaded)
}
