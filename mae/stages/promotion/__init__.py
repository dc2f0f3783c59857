"""Parts of the stage `register` that decide which model becomes champion."""
