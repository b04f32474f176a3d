package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"armarium/daemon/keystore"
	"armarium/daemon/plugin"
)

func pluginCommand() *cobra.Command {
	c := group("plugin", "Pack, sign, verify and look at plugins", `A plugin tells nodes how to collect one kind of content. Its definition, an XML file, is packed into
an archive (JAR), signed with a key that the network's keystore knows, and published on a plugin registry.`)
	c.AddCommand(packCommand(), signCommand(), verifyCommand(), inspectCommand())
	return c
}

// openTrust reads a keystore of trusted certificates. Without a password file JKS stores are
// read unchecked, as nodes do.
func openTrust(cmd *cobra.Command, file, passwordFile string) (*keystore.Trust, error) {
	b, err := readFile(cmd, file)
	if err != nil {
		return nil, err
	}
	pass := ""
	if passwordFile != "" {
		if pass, err = password(cmd, "", passwordFile, ""); err != nil {
			return nil, err
		}
	}
	t, err := keystore.ParseTrust(b, pass)
	if errors.Is(err, keystore.ErrPassword) && passwordFile == "" {
		if pass, err = password(cmd, "ARMARIUM_KEYSTORE_PASSWORD", "", "Password of "+file+": "); err != nil {
			return nil, err
		}
		t, err = keystore.ParseTrust(b, pass)
	}
	if err != nil {
		return nil, fmt.Errorf("keystore %s: %w", file, err)
	}
	return t, nil
}

// describe prints a definition for people.
func describe(w io.Writer, d *plugin.Definition) {
	fmt.Fprintf(w, "plugin        %s\n", d.ID())
	fmt.Fprintf(w, "  name        %s\n", d.Name())
	fmt.Fprintf(w, "  version     %s (polls compare %q)\n", d.Version(), d.PollVersion())
	if d.RequiredDaemonVersion() != "0.0.0" {
		fmt.Fprintf(w, "  needs       daemon %s\n", d.RequiredDaemonVersion())
	}
	if chain := d.Chain(); len(chain) > 1 {
		fmt.Fprintf(w, "  ancestors   %s\n", strings.Join(chain[1:], ", "))
	}
	for _, p := range d.Params() {
		kind := "identity"
		if !p.Definitional {
			kind = "optional"
		}
		fmt.Fprintf(w, "  parameter   %-18s type %-2d %s  %s\n", p.Key, p.Type, kind, p.Display)
	}
	if n := d.Notes(); n != "" {
		fmt.Fprintf(w, "  notes       %s\n", n)
	}
	for _, u := range d.Unsupported() {
		fmt.Fprintf(w, "  unsupported %s\n", u)
	}
	for _, x := range d.Warnings() {
		fmt.Fprintf(w, "  warning     %s\n", x)
	}
	for _, err := range []error{d.MayCollect(), d.MayVote()} {
		if err != nil {
			fmt.Fprintf(w, "  limited     %v\n", err)
		}
	}
}

// isDefinition says whether a file is a definition rather than an archive.
func isDefinition(name string) bool { return strings.EqualFold(filepath.Ext(name), ".xml") }
