package inputs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Apt is the archive as this machine's apt is set up.
type Apt struct{}

// Candidate asks apt-cache.
func (Apt) Candidate(ctx context.Context, name string) (Package, []string, error) {
	var out bytes.Buffer
	if err := run(ctx, "", &out, "apt-cache", "show", "--no-all-versions", name); err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			return Package{}, nil, fmt.Errorf("%s: %w (are the package lists there? apt-get update)", name, ErrGone)
		}
		return Package{}, nil, err
	}
	p := Package{}
	var deps []string
	s := bufio.NewScanner(&out)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "":
			if p.Name != "" {
				return p, deps, nil
			}
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			for _, d := range strings.Split(value, ",") {
				d, _, _ = strings.Cut(strings.TrimSpace(d), " ")
				deps = append(deps, d)
			}
		}
	}
	if err := s.Err(); err != nil {
		return Package{}, nil, err
	}
	if !isName(p.Name) || !isVersion(p.Version) || !isSum(p.SHA256) {
		return Package{}, nil, fmt.Errorf("%s: %w", name, ErrGone)
	}
	return p, deps, nil
}

// Download asks apt-get.
func (Apt) Download(ctx context.Context, p Package, dir string) (string, error) {
	// The sandbox user of apt cannot write here; the file is checked by its hash.
	err := run(ctx, dir, nil, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", p.Name+"="+p.Version)
	var ee *exec.ExitError
	if errors.As(err, &ee) && ctx.Err() == nil {
		return "", fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("apt-get download left %d files", len(found))
	}
	return found[0], nil
}

// run runs a program; its complaint becomes part of the error.
func run(ctx context.Context, dir string, out *bytes.Buffer, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		// Not in everybody's PATH.
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			return fmt.Errorf("%s is missing: run make setup", name)
		}
	}
	c := exec.CommandContext(ctx, path, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	var complaint bytes.Buffer
	c.Stderr = &complaint
	if out != nil {
		c.Stdout = out
	}
	if err := c.Run(); err != nil {
		text := strings.Join(strings.Fields(complaint.String()), " ")
		if len(text) > 500 {
			text = text[:500] + "…"
		}
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, text)
	}
	return nil
}
