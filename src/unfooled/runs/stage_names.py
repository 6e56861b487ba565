"""Names of stages as callbacks receive them, with the words that a progress bar shows."""

from __future__ import annotations


class StageName(str):
    """Name of a stage, such as "cascade-3-square", that also holds its description.

    Args:
        name: The name.
        description: Words for a progress bar, such as "attack, stage 4: square".
    """

    description: str

    def __new__(cls, name: str, description: str = "") -> StageName:
        """Make the name; the description is the name itself if there is none."""
        made = super().__new__(cls, name)
        made.description = description or name
        return made

    def within(self, run: str) -> StageName:
        """Return the name of this stage of one of several runs."""
        return StageName(f"{run}/{self}", f"{run}: {self.description}")


def stage_name(stage: str) -> StageName:
    """Return a stage's name as it is, or a plain string as the name of a stage that it describes itself."""
    return stage if isinstance(stage, StageName) else StageName(stage)
