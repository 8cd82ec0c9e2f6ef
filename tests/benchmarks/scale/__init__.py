"""What ten thousand trials on a thousand devices cost the driver: in virtual time, with its real parts."""
