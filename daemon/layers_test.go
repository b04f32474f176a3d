package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers of the daemon: a package imports only packages of the lines above its own.
var layers = `
	lockss javaprops platform keystore filter links alert
	account config titledb plugin lcap store journal peer
	au transport poll opinion
	crawl hasher serve sim
	status
	web api
	node
	.
`

// outside the daemon: what each package may import of the project, beside the packages
// below its own program.
var outside = map[string][]string{
	"appliance/settings": {"daemon/javaprops", "daemon/account"}, // one password format for tool, box and daemon
	"appliance/disks":    {"image/gpt"},
	"appliance/media":    {"image/layout", "image/gpt"},
	"appliance/boot":     {"daemon/platform", "image/layout", "image/gpt"},
	"appliance":          {"daemon/platform"},
	"initramfs":          {"image/layout"},
	"initramfs/rootfs":   {},
	"provision":          {"image/diskimg", "image/layout", "appliance/settings", "daemon/keystore", "daemon/plugin", "daemon/titledb", "daemon/lockss", "daemon/javaprops"},
	"qemu-tests":         {"image/diskimg", "image/layout", "image/gpt", "appliance/settings"},
	"qemu-tests/world":   {"daemon/keystore", "daemon/plugin", "daemon/javaprops", "daemon/lockss"},
	"qemu-tests/demo":    {"image/diskimg", "appliance/settings", "daemon/lockss"},
	"qemu-tests/bench": {"appliance/settings", "daemon/account", "daemon/au", "daemon/crawl", "daemon/hasher", "daemon/lcap",
		"daemon/javaprops", "daemon/lockss", "daemon/plugin", "daemon/store", "image/layout", "initramfs/rootfs"}, // what it measures in process
}

// TestLayers reads the imports of every package of the module, tests left out, and holds
// them against the tables above.
func TestLayers(t *testing.T) {
	rank := map[string]int{}
	for i, line := range strings.Split(strings.TrimSpace(layers), "\n") {
		for _, p := range strings.Fields(line) {
			rank[p] = i
		}
	}
	seen := 0
	for pkg, imports := range projectImports(t) {
		program, sub, _ := strings.Cut(pkg, "/")
		seen++
		for _, imp := range imports {
			impProgram, impSub, _ := strings.Cut(imp, "/")
			if program == "daemon" {
				if sub == "" {
					sub = "."
				}
				if impProgram != "daemon" {
					t.Errorf("%s imports %s: the daemon imports nothing outside daemon/", pkg, imp)
					continue
				}
				from, ok := rank[sub]
				to, ok2 := rank[impSub]
				if !ok || !ok2 {
					t.Errorf("%s imports %s: one of them has no layer; add it to the table with its reason", pkg, imp)
				} else if to >= from {
					t.Errorf("%s (layer %d) imports %s (layer %d): imports go to lower layers only", pkg, from, imp, to)
				}
				continue
			}
			if impProgram != program && !slices.Contains(outside[pkg], imp) {
				t.Errorf("%s imports %s, which its line does not allow", pkg, imp)
			}
		}
	}
	if seen < 20 {
		t.Fatalf("only %d packages found; the test looks in the wrong place", seen)
	}
}

// projectImports gives each package's imports within the module, relative to its root.
func projectImports(t *testing.T) map[string][]string {
	t.Helper()
	root := ".."
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if d.Name() == "testdata" || d.Name() == "build" || (strings.HasPrefix(d.Name(), ".") && path != root) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		if _, ok := found[pkg]; !ok {
			found[pkg] = nil
		}
		for _, spec := range f.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if p, ok := strings.CutPrefix(name, "armarium/"); ok && !slices.Contains(found[pkg], p) {
				found[pkg] = append(found[pkg], p)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
