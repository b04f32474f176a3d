package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"armarium/daemon/keystore"
	"armarium/daemon/plugin"
)

func signCommand() *cobra.Command {
	var store, alias, passFile, out string
	var force bool
	c := &cobra.Command{
		Use:   "sign FILE.jar --keystore FILE [-o FILE.jar]",
		Short: "Sign an archive of plugins",
		Long: `Signs every file of the archive with SHA-256. Earlier signatures are dropped. The keystore is a JKS,
PKCS#12 or PEM file with an RSA key of 2048 bits or more, or an EC key; classic nodes on old Java take
RSA only. The password is read from --password-file, from ARMARIUM_KEYSTORE_PASSWORD, or asked for.

Without -o the archive itself is replaced.`,
		Example: `  armarium plugin sign ExamplePlugin.jar --keystore alice-lockss.keystore --alias alice-lockss
  ARMARIUM_KEYSTORE_PASSWORD=… armarium plugin sign ExamplePlugin.jar --keystore alice.p12 -o signed.jar`,
		Args: args(1, 1, "one archive"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if store == "" {
				return usagef("say with --keystore which key signs; make one with: armarium keys new")
			}
			jar, err := readFile(cmd, a[0])
			if err != nil {
				return err
			}
			ks, err := readFile(cmd, store)
			if err != nil {
				return err
			}
			pass := ""
			if key, err := keystore.ParseKey(ks, alias, ""); err != nil || key == nil {
				if pass, err = password(cmd, "ARMARIUM_KEYSTORE_PASSWORD", passFile, "Password of "+store+": "); err != nil {
					return err
				}
			}
			key, err := keystore.ParseKey(ks, alias, pass)
			if err != nil {
				return fmt.Errorf("keystore %s: %w", store, err)
			}
			if now := time.Now(); now.After(key.Cert().NotAfter) {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: the certificate of %s expired on %s; nodes that refuse expired ones will not load the plugin\n",
					key.Cert().Subject, key.Cert().NotAfter.Format(time.DateOnly))
			}
			signed, err := plugin.SignJar(jar, key)
			if err != nil {
				return fmt.Errorf("%s: %w", a[0], err)
			}
			// What a node will say is known before the file is written.
			j, err := plugin.OpenJar(signed, keystore.NewTrust(key.Cert()), plugin.JarOptions{AcceptExpired: true, Strict: true})
			if err != nil {
				return fmt.Errorf("%s: the signed archive would not be accepted: %w", a[0], err)
			}
			for _, f := range j.Failures {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", f)
			}
			for _, x := range j.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", x)
			}
			if out == "" {
				out, force = a[0], true
			}
			mode := os.FileMode(0o644)
			if err := writeFile(out, signed, mode, force); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: signed by %s (%s)\n", out, j.Signer, j.Algorithm)
			for _, d := range j.Definitions {
				fmt.Fprintf(cmd.OutOrStdout(), "  %s version %s\n", d.ID(), d.Version())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificate SHA-256 %s\n", j.Fingerprint)
			return nil
		},
	}
	c.Flags().StringVar(&store, "keystore", "", "JKS, PKCS#12 or PEM file with the key")
	c.Flags().StringVar(&alias, "alias", "", "name of the key, if the store has several")
	c.Flags().StringVar(&passFile, "password-file", "", "file whose first line is the password of store and key")
	c.Flags().StringVarP(&out, "output", "o", "", "archive to write (default: replace the one given)")
	c.Flags().BoolVar(&force, "force", false, "replace an existing file")
	return c
}
