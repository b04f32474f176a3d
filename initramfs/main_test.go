package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Two builds from compiled parts give the same bytes; another program gives another image id.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads Debian packages")
	}
	dir := t.TempDir()
	compile := func(name, text string) string {
		t.Helper()
		src := filepath.Join(dir, name+".go")
		if err := os.WriteFile(src, []byte("package main\nfunc main() { println(`"+text+"`) }\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), src)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return filepath.Join(dir, name)
	}
	init, other := compile("init", "one"), compile("other", "two")
	build := func(to string, args ...string) []byte {
		t.Helper()
		all := append([]string{"-kernel", "any", "-inputs", "../build/inputs", "-lock", "inputs.lock", "-modules", "modules.list",
			"-daemon", "", "-o", filepath.Join(dir, to), "-boot", filepath.Join(dir, "boot")}, args...)
		if err := run(context.Background(), all, io.Discard); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, to))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := build("one", "-init", init)
	if !bytes.Equal(one, build("two", "-init", init)) {
		t.Error("two builds differ")
	}
	for _, args := range [][]string{{"-init", other}, {"-init", init, "-version", "x"}, {"-init", init, "-debug"}, {"-init", init, "-append", "x"}} {
		if bytes.Equal(one, build("three", args...)) {
			t.Errorf("%v makes no difference", args)
		}
	}
	err := run(context.Background(), []string{"-inputs", "../build/inputs", "-lock", "inputs.lock", "-kernel", "any", "-modules", "modules.list", "-init", "main.go", "-daemon", "",
		"-o", filepath.Join(dir, "o"), "-boot", dir}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "main.go") {
		t.Errorf("a text as PID 1: %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{{"-kernel", "new"}, {"word"}, {"-nothing"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	if o, err := parse([]string{"-kernel", "any"}, io.Discard); err != nil || !o.any {
		t.Errorf("%+v, %v", o, err)
	}
}
