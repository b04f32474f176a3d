package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var errCrash = errors.New("crash")

// Each change to a node is cut short before each of its steps, as by a crash. Afterwards the
// node is as before or as after, and can be stored over.
func TestCrashAtEachStep(t *testing.T) {
	const url = "http://press.example/x"
	for _, c := range []struct {
		name   string
		before func(t *testing.T, u *Unit)
		change func(u *Unit) error
		want   []string // possible histories after the crash
	}{
		{
			name:   "first version",
			before: func(*testing.T, *Unit) {},
			change: func(u *Unit) error { _, err := tryPut(u, url, "one", nil); return err },
			want:   []string{"not preserved", "1:one"},
		},
		{
			name:   "second version",
			before: func(t *testing.T, u *Unit) { put(t, u, url, "one", nil) },
			change: func(u *Unit) error { _, err := tryPut(u, url, "two", nil); return err },
			want:   []string{"1:one", "2:two 1:one"},
		},
		{
			name:   "same bytes",
			before: func(t *testing.T, u *Unit) { put(t, u, url, "one", nil); put(t, u, url, "two", nil) },
			change: func(u *Unit) error { _, err := tryPut(u, url, "two", nil); return err },
			want:   []string{"2:two 1:one"},
		},
		{
			name: "over a missing body",
			before: func(t *testing.T, u *Unit) {
				put(t, u, url, "one", nil)
				put(t, u, url, "two", nil)
				if err := os.Remove(filepath.Join(u.Dir(), "press.example/http/x/#content/current")); err != nil {
					t.Fatal(err)
				}
			},
			change: func(u *Unit) error { _, err := tryPut(u, url, "two", nil); return err },
			want:   []string{"2:missing 1:one", "3:two 1:one"},
		},
		{
			name: "over an inactive version",
			before: func(t *testing.T, u *Unit) {
				put(t, u, url, "one", nil)
				if err := u.Deactivate(url); err != nil {
					t.Fatal(err)
				}
			},
			change: func(u *Unit) error { _, err := tryPut(u, url, "two", nil); return err },
			want:   []string{"not preserved", "1:one", "2:two 1:one"},
		},
		{
			name: "same bytes over an inactive version",
			before: func(t *testing.T, u *Unit) {
				put(t, u, url, "one", nil)
				if err := u.Deactivate(url); err != nil {
					t.Fatal(err)
				}
			},
			change: func(u *Unit) error { _, err := tryPut(u, url, "one", nil); return err },
			want:   []string{"not preserved", "1:one"},
		},
		{
			name:   "deactivate",
			before: func(t *testing.T, u *Unit) { put(t, u, url, "one", nil) },
			change: func(u *Unit) error { return u.Deactivate(url) },
			want:   []string{"not preserved", "1:one"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := len(c.want) - 1
			for step := 0; ; step++ {
				root := t.TempDir()
				s := openStore(t, root)
				u, err := s.Create(testAU, "")
				if err != nil {
					t.Fatal(err)
				}
				c.before(t, u)
				var ops []string
				s.crash = func(op string) error {
					ops = append(ops, op)
					if len(ops) > step {
						return errCrash
					}
					return nil
				}
				err = c.change(u)
				crashed := len(ops) > step
				if crashed != errors.Is(err, errCrash) {
					t.Fatalf("crash %v, error %v", crashed, err)
				}
				abandonStore(s)

				s = openStore(t, root)
				if u, err = s.Unit(testAU); err != nil {
					t.Fatal(err)
				}
				got := history(t, u, url)
				ok := false
				for _, w := range c.want {
					ok = ok || got == w
				}
				if !ok {
					t.Errorf("crash before %q: found %q, want one of %q", ops[len(ops)-1], got, c.want)
				}
				if !crashed && got != c.want[last] && c.name != "deactivate" {
					t.Errorf("no crash: found %q, want %q", got, c.want[last])
				}
				for _, p := range problems(t, u) {
					if !strings.Contains(got, "missing") {
						t.Errorf("crash before %q: problem %s", ops[len(ops)-1], p)
					}
				}
				indexAgrees(t, u)
				// What was current before is never lost by the next version.
				sealed := put(t, u, url, "three", nil)
				if after := history(t, u, url); !strings.HasPrefix(after, fmt.Sprint(sealed.Version, ":three")) ||
					got != "not preserved" && !strings.Contains(got, "missing") && !strings.HasSuffix(after, " "+got) {
					t.Errorf("crash before %q: found %q, stored over %q", ops[len(ops)-1], got, after)
				}
				indexAgrees(t, u)
				if !crashed {
					return
				}
			}
		})
	}
}

// An error in the middle, without a crash, leaves what was stored, at once.
func TestErrorAtEachStep(t *testing.T) {
	const url = "http://press.example/x"
	for step := 0; ; step++ {
		u := newUnitIn(t, t.TempDir())
		put(t, u, url, "one", nil)
		n := 0
		u.store.crash = func(op string) error {
			if n++; n == step+1 && op != "abandon" && op != "sync" {
				return errCrash
			}
			return nil
		}
		_, err := tryPut(u, url, "two", nil)
		if err == nil {
			return
		}
		entries, err := os.ReadDir(filepath.Join(u.Dir(), "press.example/http/x/#content"))
		if err != nil || len(entries) != 2 || history(t, u, url) != "1:one" {
			t.Errorf("error at step %d leaves %v, %v, versions %s", step, entries, err, history(t, u, url))
		}
		put(t, u, url, "two", nil)
		indexAgrees(t, u)
	}
}

var (
	killSeed   = flag.Uint64("seed", 1, "of TestKill")
	killRounds = flag.Int("rounds", 50, "of TestKill")
)

const killRoot = "ARMARIUM_TEST_STORE" // environment of the helper process

func TestMain(m *testing.M) {
	if root := os.Getenv(killRoot); root != "" {
		seed, _ := strconv.ParseUint(os.Getenv(killRoot+"_SEED"), 10, 64)
		if err := storeForever(root, seed, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// storeForever stores random versions of a few URLs. It prints each when it is acknowledged,
// and before each step of storing a line that begins with '#'.
func storeForever(root string, seed uint64, out io.Writer) error {
	s, err := Open(Config{Roots: []string{root}})
	if err != nil {
		return err
	}
	s.crash = func(op string) error {
		_, err := fmt.Fprintln(out, "#", op)
		return err
	}
	u, err := s.Create(testAU, "")
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	for {
		n := rng.IntN(12)
		url := fmt.Sprintf("http://press.example/%d/%d", n%3, n)
		if rng.IntN(15) == 0 {
			if err := u.Deactivate(url); err != nil && !errors.Is(err, ErrNotPreserved) {
				return err
			}
			continue
		}
		b := bytes.Repeat([]byte{byte(rng.IntN(4))}, rng.IntN(3)*rng.IntN(50000))
		w, err := u.New(url)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if rng.IntN(10) == 0 {
			w.Abandon()
			continue
		}
		sealed, err := w.Seal(nil)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		if _, err := fmt.Fprintln(out, url, sealed.Version, hex.EncodeToString(sum[:])); err != nil {
			return err
		}
	}
}

// A process that stores is killed at random moments. Whatever it acknowledged is there
// afterwards, and each current version is the one whose checksum is recorded.
func TestKill(t *testing.T) {
	root := t.TempDir()
	rng := rand.New(rand.NewPCG(*killSeed, 1))
	acked := map[string]string{} // "url number" → SHA-256
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 10)
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killRoot+"="+root, fmt.Sprint(killRoot, "_SEED=", rng.Uint64()))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The moment is counted in lines, then in time after one.
		lines := bufio.NewReader(out)
		stop, seen := 1+rng.IntN(200), 0
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break
			}
			if f := strings.Fields(line); f[0] != "#" {
				acked[f[0]+" "+f[1]] = f[2]
			}
			if seen++; seen == stop {
				spin := time.Now().Add(time.Duration(rng.IntN(200)) * time.Microsecond)
				for time.Now().Before(spin) {
				}
				cmd.Process.Signal(syscall.SIGKILL)
			}
		}
		timer.Stop()
		cmd.Wait()
		if seen < stop {
			t.Fatalf("seed %d, round %d: the helper ended by itself: %s", *killSeed, round, stderr.String())
		}

		s, err := Open(Config{Roots: []string{root}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.Unit(testAU)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Check(context.Background(), func(p Problem) {
			t.Errorf("seed %d, round %d: %s: %v", *killSeed, round, p.URL, p.Err)
		}); err != nil {
			t.Fatal(err)
		}
		for key, want := range acked {
			url, number, _ := strings.Cut(key, " ")
			got, err := sumOf(u, url, number)
			if err != nil || got != want {
				t.Errorf("seed %d, round %d: acknowledged version %s of %s is %s, %v, want %s", *killSeed, round, number, url, got, err, want)
			}
		}
		indexAgrees(t, u)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rounds, %d acknowledged versions", rounds, len(acked))
}

// sumOf returns the SHA-256 of a version, from its file when its node is inactive.
func sumOf(u *Unit, url, number string) (string, error) {
	vs, err := u.Versions(url, 0)
	if errors.Is(err, ErrNotPreserved) {
		comps, err := nodePath(url)
		if err != nil {
			return "", err
		}
		dir := filepath.Join(u.path(comps), contentDir)
		for _, name := range []string{number, inactive} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				sum := sha256.Sum256(b)
				return hex.EncodeToString(sum[:]), nil
			}
		}
		return "", err
	}
	if err != nil {
		return "", err
	}
	for _, v := range vs {
		if strconv.Itoa(v.Number) != number {
			continue
		}
		f, err := v.Open()
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	return "", ErrNotPreserved
}

// On a full disk storing fails with an error that names the disk, and harms nothing.
func TestDiskFull(t *testing.T) {
	root := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=1m,mode=755"); err != nil {
		t.Skipf("a small file system cannot be mounted (%v); run as root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	u := newUnitIn(t, root)
	const url = "http://press.example/x"
	put(t, u, url, "one", nil)
	big := strings.Repeat("b", 2<<20)
	full := func(name string, err error) {
		t.Helper()
		var place *LayoutError
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &place) || place.Path != root || !strings.Contains(err.Error(), "full") {
			t.Errorf("%s: error %v, want one that names the full disk", name, err)
		}
	}
	_, err := tryPut(u, url, big, nil)
	full("big body", err)
	if got := history(t, u, url); got != "1:one" {
		t.Errorf("versions %q, want 1:one", got)
	}
	if got := problems(t, u); got != nil {
		t.Errorf("problems %q", got)
	}
	put(t, u, url, "two", nil) // the space is free again

	// Filled to the last page by many small ones, storing fails at any of its steps.
	failed := 0
	for i := 0; failed < 20; i++ {
		name := fmt.Sprintf("http://press.example/%d/%d", i%7, i)
		sealed, err := tryPut(u, name, strings.Repeat("s", 100*(i%40)), nil)
		if err != nil {
			failed++
			full(name, err)
			if got := history(t, u, name); got != "not preserved" {
				t.Errorf("%s: versions %q after an error", name, got)
			}
		} else if sealed.Version != 1 {
			t.Errorf("%s: %+v", name, sealed)
		}
	}
	_, err = tryPut(u, url, strings.Repeat("b", 64<<10), nil)
	full("new version", err)
	if got := history(t, u, url); got != "2:two 1:one" {
		t.Errorf("versions %q, want 2:two 1:one", got)
	}
	if got := problems(t, u); got != nil {
		t.Errorf("problems %q", got)
	}
	if _, err := u.store.Create("another&x~1", ""); err != nil {
		full("new unit", err)
	}
	full("state file", u.WriteState("#au_state.xml", []byte(big)))

	// A full disk can still be opened and read, without room for its index.
	if _, err := u.Summary(); err != nil && !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("summary: %v", err)
	}
	if err := u.store.Close(); err != nil && !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("close: %v", err)
	}
	if err := os.Remove(filepath.Join(root, "index.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint("ballast", i)), make([]byte, 4096), 0o644); err != nil {
			break
		}
	}
	s := openStore(t, root)
	u = unitOf(t, s, testAU)
	if got := history(t, u, url); got != "2:two 1:one" {
		t.Errorf("full disk: versions %q", got)
	}
	indexAgrees(t, u)
}
